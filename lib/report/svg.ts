/** Charts as SVG, for pages that show pictures and run nothing. */

const WIDTH = 640
/** Colours that differ on white and on dark ground, and for readers who do not see all of them. */
const COLORS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9'] as const

const escaped = (text: string): string =>
  text.replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c]!)
const number = (x: number): string => Number(x.toFixed(2)).toString()
const text = (x: number, y: number, content: string, more = ''): string =>
  `<text x="${number(x)}" y="${number(y)}" ${more}>${escaped(content)}</text>`
const line = (x1: number, y1: number, x2: number, y2: number, more: string): string =>
  `<line x1="${number(x1)}" y1="${number(y1)}" x2="${number(x2)}" y2="${number(y2)}" ${more}/>`

function page(title: string, height: number, parts: readonly string[]): string {
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img" aria-label="${escaped(title)}" font-family="sans-serif" font-size="12" fill="#222">`,
    `<rect width="${WIDTH}" height="${height}" fill="#fff"/>`,
    text(12, 20, title, 'font-size="14" font-weight="bold"'),
    ...parts,
    '</svg>\n',
  ].join('\n')
}

/** Round values that cover a range, some five of them. */
function ticks(low: number, high: number): number[] {
  const span = high - low || 1
  const power = 10 ** Math.floor(Math.log10(span / 4))
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => span / s <= 6)!
  const first = Math.floor(low / step)
  const last = Math.max(first + 1, Math.ceil(high / step))
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)))
}

/** A value with its interval. */
export interface IntervalRow {
  name: string
  value: number
  low: number
  high: number
}

/** Values with their intervals, one below the other, and a line at zero. */
export function intervalChart(title: string, axis: string, rows: readonly IntervalRow[]): string {
  const [left, right, top, pitch] = [170, 20, 40, 22]
  const marks = ticks(Math.min(0, ...rows.map((r) => r.low)), Math.max(0, ...rows.map((r) => r.high)))
  const [low, high] = [marks[0]!, marks.at(-1)!]
  const x = (v: number): number => left + ((v - low) / (high - low)) * (WIDTH - left - right)
  const bottom = top + rows.length * pitch
  return page(title, bottom + 44, [
    ...marks.flatMap((m) => [
      line(x(m), top, x(m), bottom, `stroke="${m === 0 ? '#222' : '#ddd'}"`),
      text(x(m), bottom + 16, `${m}`, 'text-anchor="middle"'),
    ]),
    text((left + WIDTH - right) / 2, bottom + 34, axis, 'text-anchor="middle"'),
    ...rows.flatMap((r, i) => {
      const y = top + (i + 0.5) * pitch
      const color = r.low > 0 ? COLORS[2] : r.high < 0 ? COLORS[1] : '#777'
      return [
        text(left - 8, y + 4, r.name, 'text-anchor="end"'),
        line(x(r.low), y, x(r.high), y, `stroke="${color}" stroke-width="3"`),
        `<circle cx="${number(x(r.value))}" cy="${number(y)}" r="5" fill="${color}"/>`,
      ]
    }),
  ])
}

/** A line of points. */
export interface Line {
  name: string
  points: readonly { x: number; y: number }[]
}

/** Lines over a shared axis; `log` where x is to be spread by its logarithm. */
export function lineChart(
  title: string,
  axes: { x: string; y: string; log?: boolean },
  lines: readonly Line[],
): string {
  const [left, right, top, bottom] = [56, 20, 56, 300]
  const all = lines.flatMap((l) => l.points)
  const marks = ticks(Math.min(...all.map((p) => p.y)), Math.max(...all.map((p) => p.y)))
  const [low, high] = [marks[0]!, marks.at(-1)!]
  const scale = axes.log ? Math.log : (v: number): number => v
  const xs = [...new Set(all.map((p) => p.x))].sort((a, b) => a - b)
  const [from, to] = [scale(xs[0]!), scale(xs.at(-1)!)]
  const x = (v: number): number => left + (to === from ? 0.5 : (scale(v) - from) / (to - from)) * (WIDTH - left - right)
  const y = (v: number): number => bottom - ((v - low) / (high - low)) * (bottom - top)
  const shown = axes.log || xs.length < 8 ? xs : ticks(xs[0]!, xs.at(-1)!).filter((v) => v >= xs[0]! && v <= xs.at(-1)!)
  return page(title, bottom + 48, [
    ...marks.flatMap((m) => [
      line(left, y(m), WIDTH - right, y(m), 'stroke="#ddd"'),
      text(left - 8, y(m) + 4, `${m}`, 'text-anchor="end"'),
    ]),
    ...shown.map((v) => text(x(v), bottom + 18, `${v}`, 'text-anchor="middle"')),
    text((left + WIDTH - right) / 2, bottom + 38, axes.x, 'text-anchor="middle"'),
    text(12, 40, axes.y),
    ...lines.flatMap(({ name, points }, i) => {
      const color = COLORS[i % COLORS.length]!
      return [
        `<polyline fill="none" stroke="${color}" stroke-width="2" points="${points.map((p) => `${number(x(p.x))},${number(y(p.y))}`).join(' ')}"/>`,
        ...points.map((p) => `<circle cx="${number(x(p.x))}" cy="${number(y(p.y))}" r="3" fill="${color}"/>`),
        `<rect x="${180 + 150 * i}" y="31" width="12" height="12" fill="${color}"/>`,
        text(198 + 150 * i, 41, name),
      ]
    }),
  ])
}
