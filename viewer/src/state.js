// What is shown, and the part of the address after '#' that holds it.
export const DEFAULTS = {
  run: 0,
  at: null,
  layout: 'overlay',
  over: 'warped',
  opacity: 50,
  block: null,
  colours: false,
  grid: false,
  points: false,
  labels: 'none',
  outline: false,
  keys: true, // single-key shortcuts
}
const WORDS = {
  layout: ['overlay', 'side', 'render'],
  over: ['warped', 'checker', 'before', 'displacement', 'none'],
  labels: ['none', 'fixed', 'moved'],
}

export function fromHash(hash) {
  const state = { ...DEFAULTS }
  for (const [name, text] of new URLSearchParams(hash.replace(/^#/, ''))) {
    const number = Number(text)
    if (name in WORDS) {
      if (WORDS[name].includes(text)) state[name] = text
    } else if (name === 'at') {
      const at = text.split(',').map(Number)
      if (at.length === 3 && at.every((v) => Number.isFinite(v) && Math.abs(v) < 1e6)) state.at = at
    } else if (typeof DEFAULTS[name] === 'boolean') {
      state[name] = text === '1'
    } else if (name === 'opacity') {
      if (number >= 0 && number <= 100) state.opacity = number
    } else if (name === 'run' && Number.isInteger(number) && number >= 0 && number < 1e4) {
      state.run = number
    } else if (name === 'block' && number > 0 && number < 1e4) {
      state.block = number
    }
  }
  return state
}

export function toHash(state) {
  const parts = new URLSearchParams()
  for (const [name, usual] of Object.entries(DEFAULTS)) {
    const value = state[name]
    if (value === usual || value === null) continue
    if (name === 'at') parts.set(name, value.map((v) => Math.round(v * 1000) / 1000).join(','))
    else parts.set(name, typeof value === 'boolean' ? Number(value) : value)
  }
  return `#${parts.toString().replaceAll('%2C', ',')}`
}
