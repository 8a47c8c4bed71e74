// The page of `regista view`: one state, drawn again when it changes.
import { Pane, gridLines, landmarkDots } from './pane.js'
import { fromHash, toHash } from './state.js'

const $ = (id) => document.getElementById(id)
const BLOCKS = [-3, -2, -1, 0, 1, 2].flatMap((power) => [1, 2, 5].map((step) => Number((step * 10 ** power).toPrecision(1)))) // mm
const SLOW_FLICKER_MS = 450 // about one change in half a second: below what can cause seizures

let state = fromHash(location.hash)
let runs = []
let run = null // what the server tells of the chosen run
let hidden = false // the overlay, while flickering
let flickering = 0
let asked = 0
let choice = 0
let drawn = 0

const panes = {
  fixed: new Pane($('gl-fixed'), (mm) => moved(mm, 'fixed')),
  moving: new Pane($('gl-moving'), (mm) => moved(mm, 'moving')),
}

async function get(path) {
  const response = await fetch(path)
  if (!response.ok) throw new Error((await response.text()).trim() || response.statusText)
  return response.json()
}

const knownBlock = (mm) => BLOCKS.findLast((block) => block <= mm * 1.001) ?? BLOCKS[0]
const url = (name) => `api/runs/${state.run}/${name}`

function say(text) {
  $('message').textContent = text
  $('message').hidden = !text
}

// ---- the crosshair

function sharePosition(found, from) {
  state.at = found.fixed_mm
  if (from !== 'fixed') panes.fixed.moveTo(found.fixed_mm)
  if (from !== 'warped') panes.warped?.moveTo(found.fixed_mm)
  if (from !== 'moving') panes.moving.moveTo(found.moving_mm)
  readOut(found)
  remember()
}

async function moved(mm, from) {
  const ticket = ++asked
  const space = from === 'moving' ? 'moving' : 'fixed'
  if (space === 'fixed') {
    state.at = mm
    if (from !== 'warped') panes.warped?.moveTo(mm)
    if (from !== 'fixed') panes.fixed.moveTo(mm)
  }
  try {
    const [x, y, z] = mm
    const found = await get(`${url('at')}?x=${x}&y=${y}&z=${z}&space=${space}`)
    if (ticket === asked) sharePosition(found, from)
  } catch (error) {
    if (ticket === asked) say(`${error.message}`)
  }
}

const few = (value, digits = 2) => (value === null || value === undefined ? '–' : Number(value).toFixed(digits))
const triple = (values, digits = 2) => values.slice(0, run.ndim).map((v) => few(v, digits)).join(', ')
const intensity = (value) => (Array.isArray(value) ? value.map((v) => few(v, 0)).join(', ') : value === null ? '–' : String(Number(value.toPrecision(5))))
const label = (one) => (one ? `${one.value}${one.name ? ` ${one.name}` : ''}` : '–')

function readOut(found) {
  const rows = [
    [`Displacement, ${run.unit}`, few(found.length_mm)],
    [run.ndim === 2 ? 'along x, y' : 'along x, y, z', triple(found.displacement_mm)],
    [`Fixed, ${run.world}`, triple(found.fixed_mm)],
    [run.ndim === 2 ? 'Fixed, pixel' : 'Fixed, voxel', triple(found.fixed_vox, 1)],
    [`Moving, ${run.world}`, triple(found.moving_mm)],
    ['Volume change', `× ${few(found.jacobian, 3)}`],
    [`Inverse misses, ${run.unit}`, few(found.inverse_error_mm, 3)],
    ['Value, fixed', intensity(found.fixed_value)],
    ['Value, moving', intensity(found.moving_value)],
  ]
  if (run.labels) rows.push(['Label, fixed', label(found.fixed_label)], ['Label, moving', label(found.moving_label)])
  const list = $('readout').querySelector('dl')
  list.replaceChildren(
    ...rows.flatMap(([name, value]) => {
      const term = document.createElement('dt')
      const said = document.createElement('dd')
      term.textContent = name
      said.textContent = value
      return [term, said]
    }),
  )
  list.dataset.length = found.length_mm
  list.dataset.at = found.fixed_mm.join()
}

// ---- drawing

let remembering = 0
function remember() {
  clearTimeout(remembering)
  remembering = setTimeout(() => history.replaceState(null, '', toHash(state)), 120)
}

function layers() {
  const { over, colours } = state
  const render = state.layout === 'render'
  const twoColours = colours && !run.colour && !render && (over === 'warped' || over === 'before')
  const found = [{ url: url('fixed.nii'), opacity: 1, colormap: 'gray' }]
  // overlays are added to one another, not to the base: the fixed image lies over itself, orange
  if (twoColours) found.push({ url: url('fixed.nii#orange'), opacity: hidden ? 0 : 1, colormap: 'orange' })
  const opacity = state.layout === 'side' || hidden ? 0 : over === 'checker' || twoColours ? 1 : state.opacity / 100
  if (over !== 'none' && state.layout !== 'side' && !(render && over === 'checker')) {
    const name = over === 'checker' ? `checker-${state.block}` : over
    const colormap = over === 'displacement' ? 'viridis' : twoColours ? 'blue' : render ? 'gray' : 'opaque'
    found.push({ url: url(`${name}.nii`), opacity, colormap })
  }
  return { found, twoColours }
}

function chosenLabels() {
  if (state.labels === 'none' || !run.labels) return null
  const [R, G, B] = [0, 1, 2].map((n) => run.palette.map((colour) => colour[n]))
  const palette = { R, G, B, A: R.map((_, n) => (n ? 255 : 0)), I: R.map((_, n) => n) }
  return { url: url(`labels-${state.labels}.nii`), opacity: 0.5, palette, outline: state.outline }
}

let drawing = Promise.resolve()
function draw() {
  drawing = drawing.then(async () => {
    const ticket = choice
    await drawNow().catch((error) => ticket === choice && say(error.message)) // of a run that was left there is nothing to say
  })
  return drawing
}

async function drawNow() {
  if (!run) return
  document.body.dataset.ready = 'no'
  const side = state.layout === 'side'
  const flat = run.ndim === 2
  const render = state.layout === 'render' && !flat
  $('panes').className = render ? 'render' : state.layout
  $('pane-warped').classList.toggle('away', !side)
  $('pane-moving').classList.toggle('away', render)
  if (side && !panes.warped) panes.warped = new Pane($('gl-warped'), (mm) => moved(mm, 'warped'))
  await Promise.all(Object.values(panes).map((pane) => pane.ready))
  const { found, twoColours } = layers()
  const chosen = chosenLabels()
  const how = { flat, letters: run.letters.fixed, render, additive: twoColours && !hidden, labels: render ? null : chosen }
  const over = render && chosen ? [chosen] : [] // on slices they are painted over all layers
  captions(render) // before the canvases are fitted: it changes their height
  for (const pane of Object.values(panes)) pane.fit()
  await panes.fixed.show([...found, ...over], how)
  if (side) await panes.warped.show([{ url: url('warped.nii'), opacity: 1, colormap: 'gray' }], how)
  if (!render) await panes.moving.show([{ url: url('moving.nii'), opacity: 1, colormap: 'gray' }], { flat, letters: run.letters.moving })
  await marks(render)
  if (side) panes.warped.moveTo(panes.fixed.position())
  controls()
  remember()
  document.body.dataset.ready = 'yes'
  document.body.dataset.hidden = hidden ? 'yes' : 'no'
  document.body.dataset.drawn = ++drawn
}

async function marks(render) {
  const chosen = state.run
  const thickness = render || run.ndim === 2 ? Infinity : Math.max(run.line_mm / 2, run.spacing_mm)
  await panes.fixed.mark('grid', state.grid, (nv) => gridLines(nv, url('grid.tck')), thickness)
  const pairs = state.points && run.landmarks ? await get(`api/runs/${chosen}/landmarks`) : []
  const dots = async (nv) => landmarkDots(nv, pairs, Math.max(1.2 * run.spacing_mm, run.line_mm / 8))
  await panes.fixed.mark('points', pairs.length > 0, dots, thickness)
}

function captions(render) {
  const over = { warped: 'warped', checker: 'checkerboard with warped', before: 'moving as stored', displacement: `displacement, 0 to ${few(run.largest_mm, 1)} ${run.unit}` }[state.over]
  const first = state.layout === 'side' || !over ? 'Fixed' : hidden ? 'Fixed (overlay hidden)' : `Fixed and ${over}`
  $('pane-fixed').firstChild.textContent = `${first}: ${run.fixed}${render ? ', 3-D' : ''}`
  $('pane-warped').firstChild.textContent = `Warped: ${run.moving}`
  $('pane-moving').firstChild.textContent = `Moving, its own grid: ${run.moving}`
}

function controls() {
  for (const input of document.querySelectorAll('input[name=layout]')) input.checked = input.value === state.layout
  for (const name of ['colours', 'grid', 'points', 'outline']) $(name).checked = state[name]
  for (const name of ['over', 'labels', 'opacity']) $(name).value = state[name]
  $('flicker').checked = flickering !== 0
  $('block').value = Math.max(0, BLOCKS.indexOf(state.block))
  $('opacity-said').textContent = `${state.opacity} %`
  $('block-said').textContent = `${state.block} ${run.unit}`
  $('opacity').disabled = state.over === 'none'
  $('block').parentElement.hidden = state.over !== 'checker'
  $('opacity').parentElement.hidden = state.over === 'checker'
  $('colours').disabled = run.colour
  $('outline').disabled = state.layout === 'render' // surfaces, which have none
  $('run').value = state.run
}

// Those who dictate, or touch keys unmeant, switch single-key shortcuts off (WCAG 2.2, 2.1.4).
function setKeys(on) {
  state.keys = $('keys').checked = on
  document.body.dataset.keys = on ? 'on' : 'off'
}

// ---- choosing

async function choose(number) {
  const ticket = ++choice
  stopFlicker()
  run = null
  say('')
  document.body.dataset.ready = 'no'
  if (number !== state.run) state.block = null // of another size, perhaps
  state.run = number
  for (const pane of Object.values(panes)) pane.clear()
  try {
    const found = await get(`api/runs/${number}`)
    if (ticket !== choice) return // another was chosen while this one was read
    run = found
  } catch (error) {
    if (ticket !== choice) return
    $('run').value = number
    say(`${runs[number]?.name ?? `Run ${number}`}: ${error.message}`)
    document.body.dataset.ready = 'failed'
    return
  }
  for (const pane of Object.values(panes)) pane.nv.meshes = []
  if (run.ndim === 2 && state.layout === 'render') state.layout = 'overlay'
  state.block = knownBlock(state.block ?? run.block_mm)
  $('verdict').textContent = run.outcome || run.status
  $('verdict').dataset.outcome = run.outcome
  $('title').textContent = `${run.moving} → ${run.fixed}`
  document.title = `${run.moving} → ${run.fixed} · Regista`
  $('over').querySelector('[value=displacement]').textContent = `Displacement, ${run.unit}`
  $('labels-box').hidden = $('outline-box').hidden = !run.labels
  $('points-box').hidden = !run.landmarks
  for (const deep of document.querySelectorAll('.deep')) deep.hidden = run.ndim === 2
  $('notes').replaceChildren(
    ...[...run.reasons, ...run.notes].map((text) => {
      const item = document.createElement('li')
      item.textContent = text
      return item
    }),
  )
  await draw()
  if (ticket !== choice) return
  const at = state.at ?? run.centre_mm
  panes.fixed.moveTo(at)
  await moved(at, 'url')
}

function set(changes) {
  Object.assign(state, changes)
  hidden = false
  return draw()
}

function toggleOverlay() {
  hidden = !hidden
  return draw()
}

function stopFlicker() {
  clearInterval(flickering)
  flickering = 0
  hidden = false
}

function flicker() {
  if (flickering) stopFlicker()
  else flickering = setInterval(() => document.body.dataset.ready === 'yes' && toggleOverlay(), SLOW_FLICKER_MS)
  return draw()
}

function step(axis, by) {
  const vox = [0, 0, 0]
  vox[axis] = by
  const { nv } = panes.fixed
  nv.moveCrosshairInVox(...vox)
}

const KEYS = {
  ' ': toggleOverlay,
  f: flicker,
  '[': () => set({ opacity: Math.max(0, state.opacity - 10) }),
  ']': () => set({ opacity: Math.min(100, state.opacity + 10) }),
  1: () => set({ layout: 'overlay' }),
  2: () => set({ layout: 'side' }),
  3: () => run.ndim === 3 && set({ layout: 'render' }),
  w: () => set({ over: 'warped' }),
  c: () => set({ over: 'checker' }),
  b: () => set({ over: 'before' }),
  d: () => set({ over: 'displacement' }),
  n: () => set({ over: 'none' }),
  k: () => !run.colour && set({ colours: !state.colours }),
  g: () => set({ grid: !state.grid }),
  m: () => run.landmarks && set({ points: !state.points }),
  l: () => run.labels && set({ labels: { none: 'fixed', fixed: 'moved', moved: 'none' }[state.labels] }),
  o: () => run.labels && set({ outline: !state.outline }),
  ArrowLeft: () => step(0, 1), // radiological: the person's right is on the left
  ArrowRight: () => step(0, -1),
  ArrowUp: () => step(1, 1),
  ArrowDown: () => step(1, -1),
  PageUp: () => step(2, 1),
  PageDown: () => step(2, -1),
  r: () => moved(run.centre_mm, 'url'),
  ',': () => choose(Math.max(0, state.run - 1)),
  '.': () => choose(Math.min(runs.length - 1, state.run + 1)),
  '?': () => ($('help').open ? $('help').close() : $('help').showModal()),
}

function listen() {
  document.addEventListener(
    'keydown',
    (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return
      if (!state.keys && event.key.length === 1) return event.stopPropagation() // NiiVue has keys of its own
      const typing = event.target.matches('select, input[type=range], button')
      const own = typing && (event.key.startsWith('Arrow') || event.key.startsWith('Page') || event.key === ' ')
      const box = event.target.matches('input[type=checkbox], input[type=radio]') && (event.key === ' ' || event.key.startsWith('Arrow'))
      const act = KEYS[event.key]
      if (!act || own || box || (!run && !',.?'.includes(event.key)) || ($('help').open && event.key !== '?')) return
      event.preventDefault()
      event.stopPropagation()
      act()
    },
    true,
  )
  for (const input of document.querySelectorAll('input[name=layout]')) input.addEventListener('change', () => set({ layout: input.value }))
  for (const name of ['over', 'labels']) $(name).addEventListener('change', () => set({ [name]: $(name).value }))
  for (const name of ['colours', 'grid', 'points', 'outline']) $(name).addEventListener('change', () => set({ [name]: $(name).checked }))
  $('opacity').addEventListener('input', () => set({ opacity: Number($('opacity').value) }))
  $('block').addEventListener('change', () => set({ block: BLOCKS[$('block').value] }))
  $('flicker').addEventListener('change', flicker)
  $('keys').addEventListener('change', () => {
    setKeys($('keys').checked)
    remember()
  })
  $('run').addEventListener('change', () => choose(Number($('run').value)))
  $('help-open').addEventListener('click', () => $('help').showModal())
  window.addEventListener('hashchange', () => {
    const before = state.run
    state = { ...fromHash(location.hash) }
    setKeys(state.keys)
    if (run) state.block = knownBlock(state.block ?? run.block_mm)
    if (state.run !== before || !run) choose(Math.min(state.run, runs.length - 1))
    else draw().then(() => moved(state.at ?? run.centre_mm, 'url'))
  })
}

async function start() {
  listen()
  setKeys(state.keys)
  try {
    runs = await get('api/runs')
    $('run').replaceChildren(
      ...runs.map(({ id, name }) => {
        const option = document.createElement('option')
        option.value = id
        option.textContent = name
        return option
      }),
    )
    $('run-box').hidden = runs.length < 2
    await choose(Math.min(state.run, runs.length - 1))
  } catch (error) {
    say(`The viewer cannot start: ${error.message}`)
    document.body.dataset.ready = 'failed'
  }
}

start()
