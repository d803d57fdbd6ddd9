// What the page of `serve` and report.html share: elements, numbers as text, charts, the choice of light or dark.
import uPlot from '/uplot.mjs'

/** An element with a text, attributes and children. A text is never read as HTML. */
export function element(name, text = '', attributes = {}, ...children) {
  const e = document.createElement(name)
  e.textContent = text
  for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value)
  e.append(...children)
  return e
}

export const short = (x) => (typeof x === 'number' ? Number(x.toPrecision(4)).toString() : '–')
export const percent = (x) => (typeof x === 'number' ? `${(100 * x).toFixed(1)} %` : '–')
export const mebibytes = (x) => (typeof x === 'number' ? `${(x / 2 ** 20).toFixed(0)} MiB` : '–')

/** A colour of the stylesheet as the theme has it now. */
const probe = document.body.appendChild(element('span', '', { hidden: '' }))
export function colour(name) {
  probe.style.color = `var(${name})`
  return getComputedStyle(probe).color
}

/** Steps of an axis that counts. */
const WHOLE = [1, 10, 100, 1000, 10_000, 100_000, 1_000_000].flatMap((n) => [n, 2 * n, 5 * n])

/** A chart that follows the width of its place, and the theme once `redraw` is called. */
export class Chart {
  /**
   * @param x the name of what is counted
   * @param series uPlot's, with the name of a colour as `stroke`
   * @param values the text of a value on the axis
   */
  constructor(place, x, series, values) {
    this.place = place
    this.x = x
    this.series = series
    this.values = values
    this.data = [[], ...series.map(() => [])]
    new ResizeObserver(() => this.plot?.setSize(this.size)).observe(place)
  }
  get size() {
    return { width: Math.max(200, this.place.clientWidth - 2), height: 240 }
  }
  /** @param label what a screen reader says of it */
  show(data, label) {
    this.data = data
    this.place.setAttribute('aria-label', label)
    if (this.plot) this.plot.setData(data)
    else if (data[0].length) this.#draw()
  }
  #draw() {
    this.plot?.destroy()
    const axis = { stroke: colour('--soft'), grid: { stroke: colour('--line'), width: 0.5 }, ticks: { show: false } }
    const { values } = this
    this.plot = new uPlot(
      {
        ...this.size,
        scales: { x: { time: false } },
        axes: [
          { ...axis, incrs: WHOLE },
          { ...axis, ...(values && { size: 64, values: (_, ticks) => ticks.map(values) }) },
        ],
        cursor: { drag: { x: true, y: false } },
        series: [
          { label: this.x },
          ...this.series.map(({ stroke, ...more }) => ({
            ...more,
            stroke: colour(stroke),
            ...(values && { value: (_, v) => (v === null ? '–' : values(v)) }),
          })),
        ],
      },
      this.data,
      this.place,
    )
  }
  redraw() {
    if (this.plot) this.#draw()
  }
  clear() {
    this.plot?.destroy()
    this.plot = undefined
  }
}

/** A page that is opened from a file may have no storage. */
function stored(value) {
  try {
    if (value !== undefined) localStorage.setItem('theme', value)
    return localStorage.getItem('theme')
  } catch {
    return null
  }
}

/** Makes a button switch between light and dark; `changed` is called after each change, the system's included. */
export function themeButton(button, changed) {
  const dark = matchMedia('(prefers-color-scheme: dark)')
  const apply = (wanted) => {
    if (wanted) document.documentElement.dataset.theme = wanted
    const isDark = (document.documentElement.dataset.theme ?? (dark.matches ? 'dark' : 'light')) === 'dark'
    button.setAttribute('aria-pressed', String(isDark))
    changed()
  }
  button.addEventListener('click', () => {
    const wanted = button.getAttribute('aria-pressed') === 'true' ? 'light' : 'dark'
    stored(wanted)
    apply(wanted)
  })
  dark.addEventListener('change', () => apply())
  apply(stored())
}
