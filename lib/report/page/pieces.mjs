// What the parts of the report are made of: its data, sections, tables, charts and maps, and figures as texts.
import uPlot from '/uplot.mjs'
import { Chart, colour, element, mebibytes, percent, short } from '/parts.mjs'

/** @type {{ runs: any[] }} */
export const { runs } = JSON.parse(document.getElementById('data').textContent)
export const [run] = runs
export const main = document.getElementById('main')
/** What is drawn anew when the theme changes. */
export const drawn = []

/** Begins a part of the page, which the header links to. */
export function part(id, title, ...children) {
  const heading = element('h2', title, { id: `${id}-title` })
  const section = element('section', '', { id, 'aria-labelledby': heading.id }, heading, ...children)
  main.append(section)
  document.getElementById('parts').append(element('a', title, { href: `#${id}` }))
  return section
}

export const paragraph = (text, kind) => element('p', text, kind ? { class: kind } : {})

/** A table in a box of its own, which scrolls where it is too wide. */
export function table(caption, head, rows, { text = [] } = {}) {
  const cell = (name, value, i, attributes = {}) =>
    element(name, '', { ...attributes, ...(text.includes(i) && { class: 'text' }) }, value ?? '–')
  const t = element('table', '', {}, element('caption', caption))
  t.append(
    element('thead', '', {}, element('tr', '', {}, ...head.map((value, i) => cell('th', value, i, { scope: 'col' })))),
    element(
      'tbody',
      '',
      {},
      ...rows.map((row) =>
        element(
          'tr',
          '',
          {},
          ...row.map((value, i) => (i ? cell('td', value, i) : cell('th', value, i, { scope: 'row' }))),
        ),
      ),
    ),
  )
  return element('div', '', { class: 'wide', tabindex: '0', role: 'region', 'aria-label': caption }, t)
}

/** Something that is made when it is opened. */
export function folded(summary, make) {
  const details = element('details', '', {}, element('summary', summary))
  details.addEventListener('toggle', () => details.open && details.children.length === 1 && details.append(make()))
  return details
}

/** Rows of a table behind a chart. */
export const ROWS = 200

/** A chart with its table. `series`: label, colour, xs, ys, and what else uPlot takes. */
export function chart(title, x, series, values = short) {
  const place = element('div', '', { class: 'chart', role: 'img', 'aria-label': title })
  const figure = element('figure', '', {}, element('figcaption', title), place)
  const data = series.length > 1 ? uPlot.join(series.map(({ xs, ys }) => [xs, ys])) : [series[0].xs, series[0].ys]
  const c = new Chart(
    place,
    x,
    series.map(({ xs, ys, ...more }) => ({ spanGaps: false, ...more })),
    values,
  )
  drawn.push(() => c.redraw())
  const ends = series.map(({ label, xs, ys }) => {
    const last = ys.findLastIndex((y) => typeof y === 'number')
    return `${label}: ${values(ys[last])} at ${x} ${xs[last]}`
  })
  const stride = Math.ceil(data[0].length / ROWS)
  figure.append(
    folded('As a table', () =>
      table(
        stride > 1 ? `${title}, every ${stride}th point` : title,
        [x, ...series.map((s) => s.label)],
        data[0].flatMap((at, i) =>
          (data[0].length - 1 - i) % stride
            ? []
            : [[String(at), ...data.slice(1).map((ys) => (typeof ys[i] === 'number' ? values(ys[i]) : '–'))]],
        ),
      ),
    ),
  )
  // A chart is as wide as its place, which has no width before it is on the page.
  queueMicrotask(() => c.show(data, `${title}. ${ends.join('; ')}.`))
  return figure
}

export const moment = (iso) => (typeof iso === 'string' ? `${iso.slice(0, 16).replace('T', ' ')} UTC` : '–')
export function duration(seconds) {
  if (!(seconds > 0)) return '–'
  if (seconds < 120) return `${short(seconds)} s`
  const minutes = Math.round(seconds / 60)
  return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}
export const memory = (x) => (x < 2 ** 24 ? `${(x / 2 ** 20).toFixed(2)} MiB` : mebibytes(x))
export const count = (n) => (typeof n === 'number' ? n.toLocaleString('en') : '–')
export const colourOf = (i) => `--c${i}`
export const dashOf = (i) => (i ? { dash: [2 + 3 * i, 3] } : {})

/** Mean of the values that are numbers. */
export function meanOf(values) {
  const numbers = values.filter((x) => typeof x === 'number')
  return numbers.length ? numbers.reduce((a, b) => a + b, 0) / numbers.length : undefined
}

/** Exponential smoothing; null where there is no value. */
export function smoothed(values) {
  let before
  return values.map((value) => {
    if (value === null) return null
    before = before === undefined ? value : 0.9 * before + 0.1 * value
    return before
  })
}

export const has = (values) => values.some((x) => typeof x === 'number')

export const cut = (text, most = 60) => (text.length > most ? `${text.slice(0, most - 1)}…` : text)

/** A text on a ground that says how large a share is. */
export function tinted(text, share) {
  const e = element('span', text, { class: 'tint' })
  e.style.setProperty('--share', `${Math.round(100 * share)}%`)
  return e
}

export const [LABELS, ROW] = [92, 14]

/**
 * Numbers from 0 to 1 as a map: rows by name, one column for each of `columns`. A pointer over a cell shows its value;
 * the table behind it holds all of them.
 */
export function heatMap(title, summary, rows, columns, values) {
  const canvas = element('canvas', '', { class: 'map' })
  const place = element('div', '', { role: 'img', 'aria-label': `${title}. ${summary}` }, canvas)
  const readout = element('p', 'Point at a cell to read it.', { class: 'notes', 'aria-hidden': 'true' })
  const height = rows.length * ROW + 18
  const draw = () => {
    const width = place.clientWidth
    if (!width) return
    const ratio = globalThis.devicePixelRatio || 1
    canvas.width = width * ratio
    canvas.height = height * ratio
    canvas.style.width = `${width}px`
    canvas.style.height = `${height}px`
    const c = canvas.getContext('2d')
    c.scale(ratio, ratio)
    c.font = '11px system-ui, sans-serif'
    c.textBaseline = 'middle'
    const [soft, full] = [colour('--soft'), colour('--strong')]
    const cell = (width - LABELS) / columns.length
    for (const [i, name] of rows.entries()) {
      c.globalAlpha = 1
      c.fillStyle = soft
      c.fillText(name, 0, i * ROW + ROW / 2, LABELS - 6)
      c.fillStyle = full
      for (let j = 0; j < columns.length; j++) {
        c.globalAlpha = Math.sqrt(Math.min(1, Math.max(0, values[i][j] ?? 0)))
        c.fillRect(LABELS + j * cell, i * ROW + 1, Math.max(1, cell - (cell > 4 ? 1 : 0)), ROW - 2)
      }
    }
    c.globalAlpha = 1
    c.fillStyle = soft
    const most = Math.min(30, Math.max(6, Math.floor((width - LABELS) / 14)))
    c.fillText(cut(columns[0], most), LABELS, height - 7)
    if (columns.length > 1) {
      c.textAlign = 'right'
      c.fillText(cut(columns.at(-1), most), width, height - 7)
    }
  }
  canvas.addEventListener('pointermove', (e) => {
    const [i, j] = [
      Math.floor(e.offsetY / ROW),
      Math.floor(((e.offsetX - LABELS) / (place.clientWidth - LABELS)) * columns.length),
    ]
    if (i < rows.length && j >= 0 && j < columns.length)
      readout.textContent = `${rows[i]}, ${cut(columns[j])}: ${percent(values[i][j])}`
  })
  new ResizeObserver(draw).observe(place)
  drawn.push(draw)
  return element(
    'figure',
    '',
    {},
    element('figcaption', title),
    place,
    readout,
    folded('As a table', () =>
      table(
        title,
        ['', ...rows],
        columns.map((name, j) => [cut(name), ...rows.map((_, i) => percent(values[i][j]))]),
      ),
    ),
  )
}
