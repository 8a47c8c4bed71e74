// Bundles the viewer's page into the Python package: one script, one page, one style, one list of licences.
import { build } from 'esbuild'
import { readFileSync, readdirSync, copyFileSync, writeFileSync, mkdirSync, existsSync } from 'node:fs'
import { join } from 'node:path'

const out = '../src/regista/reporting/viewer'
mkdirSync(out, { recursive: true })
const { metafile } = await build({
  entryPoints: ['src/main.js'],
  outfile: `${out}/viewer.js`,
  bundle: true,
  minify: true,
  format: 'esm',
  target: 'es2022',
  legalComments: 'none',
  metafile: true,
  logLevel: 'info',
})
for (const name of ['index.html', 'viewer.css']) copyFileSync(`src/${name}`, `${out}/${name}`)

const folders = new Set(
  Object.keys(metafile.inputs)
    .map((path) => path.match(/^(?:.*\/)?node_modules\/((?:@[^/]+\/)?[^/]+)\//))
    .filter(Boolean)
    .map((match) => match[1]),
)
// NiiVue's own bundle carries these inside, so that the list of inputs does not name them
for (const name of Object.keys(JSON.parse(readFileSync('node_modules/@niivue/niivue/package.json')).dependencies)) {
  if (existsSync(join('node_modules', name))) folders.add(name)
}
const parts = [...folders].sort().map((name) => {
  const folder = join('node_modules', name)
  const about = JSON.parse(readFileSync(join(folder, 'package.json')))
  const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry))
  const own = `licences/${name.replace('/', '+')}.txt`
  const text = file ? readFileSync(join(folder, file), 'utf8') : existsSync(own) ? readFileSync(own, 'utf8') : ''
  return `${about.name} ${about.version} (${about.license})\n\n${text.trim()}\n`
})
const rule = `\n${'-'.repeat(72)}\n\n`
writeFileSync(
  `${out}/LICENCES.txt`,
  `viewer.js holds the viewer's own script (Apache-2.0, as Regista) and these libraries.\n${rule}${parts.join(rule)}`,
)
