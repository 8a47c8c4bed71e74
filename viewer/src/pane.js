// One canvas: a NiiVue scene whose base volume and overlays are set by name.
import { Niivue, NVImage, NVMesh, SLICE_TYPE, SHOW_RENDER, DRAG_MODE } from '@niivue/niivue'
import { sliceShader } from './slice.js'

const OPAQUE = { R: [0, 255], G: [0, 255], B: [0, 255], A: [255, 255], I: [0, 255] }
const ORANGE = { R: [0, 255], G: [0, 140], B: [0, 26], A: [255, 255], I: [0, 255] }
const CROSSHAIR_PIXELS = 1.25
const BLUE = { R: [0, 0], G: [0, 115], B: [0, 229], A: [255, 255], I: [0, 255] }

export class Pane {
  constructor(canvas, onMove) {
    this.volumes = new Map()
    this.shown = []
    this.painted = null
    this.marks = new Map()
    this.nv = new Niivue({
      backColor: [0, 0, 0, 1],
      crosshairColor: [0.34, 0.71, 0.91, 1],
      fontColor: [0.85, 0.85, 0.85, 1],
      isRadiologicalConvention: true,
      multiplanarShowRender: SHOW_RENDER.NEVER,
      multiplanarPadPixels: 4,
      dragAndDropEnabled: false,
      clipPlaneHotKey: '',
      cycleClipPlaneHotKey: '',
      viewModeHotKey: '',
      logLevel: 'error',
      loadingText: '',
      crosshairWidthUnit: 'mm',
      crosshairGap: 4,
      dragMode: DRAG_MODE.contrast,
    })
    this.nv.addColormap('opaque', OPAQUE)
    this.nv.addColormap('orange', ORANGE)
    this.nv.addColormap('blue', BLUE)
    this.nv.onLocationChange = () => this.base && onMove(this.position())
    const line = Math.max(1, Math.round(1.5 * devicePixelRatio)) // pixels, on either side of a border
    this.ready = this.nv.attachToCanvas(canvas).then(() => this.nv.setCustomSliceShader(sliceShader(line)))
  }

  get base() {
    return this.nv.volumes[0]
  }

  // Forget the volumes of a run; the next `show` brings others.
  clear() {
    this.volumes.clear()
    this.marks.clear()
    this.shown = []
    if (this.painted) this.nv.closeDrawing()
    this.painted = null
  }

  async load(url) {
    if (!this.volumes.has(url)) {
      const address = url.split('#')[0] // what follows tells copies of a volume apart
      const found = await NVImage.loadFromUrl({ url: address, name: address.split('/').pop() })
      this.volumes.set(url, found)
    }
    return this.volumes.get(url)
  }

  // layers: [{url, opacity, colormap, palette}], the base first.
  async show(layers, { flat, render, additive, labels, letters }) {
    const wanted = await Promise.all(layers.map((layer) => this.load(layer.url)))
    wanted.forEach((volume, n) => {
      const { opacity, colormap, palette } = layers[n]
      volume.opacity = opacity
      if (palette) {
        if (!volume.colormapLabel) volume.setColormapLabel(palette)
      } else if (volume.colormap !== colormap) volume.colormap = colormap
    })
    const nv = this.nv
    const at = this.base && this.shown.length ? this.position() : null
    nv.opts.isAdditiveBlend = additive
    if (this.shown.join() !== layers.map((l) => l.url).join()) {
      nv.volumes = [...wanted]
      nv.back = null
      nv.setVolume(wanted[0], 0)
      this.shown = layers.map((l) => l.url)
    } else nv.updateGLVolume()
    await this.paint(labels)
    nv.opts.sliceType = render ? SLICE_TYPE.RENDER : flat ? SLICE_TYPE.AXIAL : SLICE_TYPE.MULTIPLANAR
    nv.opts.show3Dcrosshair = true
    nv.opts.isOrientationTextVisible = letters // a photograph has no left and right of a person
    if (at) this.moveTo(at)
    else this.draw()
  }

  // Labels on the base's grid, over all layers of a slice: NiiVue's layer for drawings, which `sliceShader` draws.
  async paint(labels) {
    const { nv } = this
    const url = labels?.url ?? null
    if (url !== this.painted) {
      if (this.painted) nv.closeDrawing()
      this.painted = null
      if (labels) {
        const volume = await this.load(url)
        nv.setDrawColormap(labels.palette)
        if (!nv.loadDrawing(volume)) throw new Error('the labels lie on another grid than the image')
        this.painted = url
      }
    }
    nv.drawOpacity = labels && !labels.outline ? 0.5 : 0
    nv.drawRimOpacity = labels?.outline ? 1 : -1
  }

  // Lines or dots in world mm, loaded when first wanted.
  async mark(name, wanted, make, thickness) {
    const nv = this.nv
    if (wanted && !this.marks.has(name)) this.marks.set(name, make(nv).catch((error) => (this.marks.delete(name), Promise.reject(error))))
    const mesh = this.marks.has(name) ? await this.marks.get(name) : null
    const there = mesh && nv.meshes.includes(mesh)
    if (wanted && mesh && !there) nv.addMesh(mesh)
    if (!wanted && there) {
      nv.meshes = nv.meshes.filter((each) => each !== mesh)
      nv.updateGLVolume()
    }
    nv.opts.meshThicknessOn2D = thickness
    this.draw()
  }

  // A canvas that is not wanted is moved away, not hidden: NiiVue draws to whatever size it finds.
  get away() {
    return this.nv.canvas.parentElement.classList.contains('away')
  }

  draw() {
    if (this.away) return
    this.nv.drawScene()
    this.sizeCrosshair()
  }

  // Crosshairs are bodies of a size in mm: what is thinner than a pixel falls between pixels, and is not seen.
  sizeCrosshair() {
    const { nv } = this
    const pixels = nv.screenSlices.filter(({ axCorSag }) => axCorSag <= 2).map(({ fovMM, leftTopWidthHeight }) => Math.abs(fovMM[0] / leftTopWidthHeight[2]))
    const width = CROSSHAIR_PIXELS * Math.max(...pixels) * devicePixelRatio
    if (Number.isFinite(width) && Math.abs(width / nv.opts.crosshairWidth - 1) > 0.05) nv.setCrosshairWidth(width) // draws
  }

  fit() {
    if (this.away) return
    this.nv.resizeListener()
    this.draw()
  }

  position() {
    const mm = this.nv.frac2mm(this.nv.scene.crosshairPos, 0, true)
    return [mm[0], mm[1], mm[2]]
  }

  moveTo(mm) {
    if (!this.base) return
    this.nv.scene.crosshairPos = this.nv.mm2frac(mm, 0, true)
    this.draw()
  }
}

export async function gridLines(nv, url) {
  const mesh = await NVMesh.loadFromUrl({ url, gl: nv.gl, name: 'grid.tck', rgba255: [255, 196, 0, 255] })
  mesh.fiberColor = 'Fixed'
  mesh.rgba255 = [255, 196, 0, 255]
  mesh.updateMesh(nv.gl)
  return mesh
}

// Fixed landmarks orange, moving ones brought over blue, a line between the two of a pair.
export function landmarkDots(nv, pairs, size) {
  const nodes = pairs.flatMap(({ fixed_mm: one, moved_mm: other }) => [
    { name: '', x: one[0], y: one[1], z: one[2], colorValue: -1, sizeValue: 1 },
    { name: '', x: other[0], y: other[1], z: other[2], colorValue: 1, sizeValue: 1 },
  ])
  const edges = pairs.map((_, n) => ({ first: 2 * n, second: 2 * n + 1, colorValue: 1 }))
  nv.addColormap('landmarks', { R: [86, 86], G: [180, 180], B: [233, 233], A: [255, 255], I: [0, 255] })
  nv.addColormap('landmarks-fixed', { R: [255, 255], G: [158, 158], B: [44, 44], A: [255, 255], I: [0, 255] })
  return nv.loadConnectomeAsMesh({
    name: 'landmarks',
    nodeColormap: 'landmarks',
    nodeColormapNegative: 'landmarks-fixed',
    nodeMinColor: 0.1,
    nodeMaxColor: 1,
    nodeScale: size,
    edgeColormap: 'landmarks',
    edgeColormapNegative: 'landmarks',
    edgeMin: 0.1,
    edgeMax: 1,
    edgeScale: size / 4,
    legendLineThickness: 0,
    showLegend: false,
    nodes,
    edges,
  })
}
