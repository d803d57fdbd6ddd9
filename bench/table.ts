/** Rows and goals as text for a terminal. */
import { textTable } from '../lib/report/table.js'
import type { Goal, Row } from './record.js'

/** Microseconds as text: three figures and a unit. */
export function time(us: number): string {
  const [value, unit] = us >= 1e6 ? [us / 1e6, 's'] : us >= 1e3 ? [us / 1e3, 'ms'] : [us, 'µs']
  return `${figures(value)} ${unit}`
}
export const figures = (x: number): string =>
  x >= 99.95 || x === 0 ? x.toFixed(0) : x >= 9.995 ? x.toFixed(1) : x.toFixed(2)
export const percent = (x: number): string => `${(100 * x).toFixed(0)} %`
export const bytes = (n: number): string =>
  n >= 1e9 ? `${figures(n / 1e9)} GB` : n >= 1e6 ? `${figures(n / 1e6)} MB` : `${figures(n / 1e3)} kB`

/** Footnotes: a line gets a number, and the reason is printed once below the lines. */
export class Footnotes {
  #reasons: string[] = []

  mark(reason: string): string {
    if (!this.#reasons.includes(reason)) this.#reasons.push(reason)
    return `[${this.#reasons.indexOf(reason) + 1}]`
  }
  /** What was marked since the last call. Numbers start anew. */
  take(): string[] {
    const taken = this.#reasons.map((reason, i) => `[${i + 1}] ${reason}`)
    this.#reasons = []
    return taken
  }
}

/** `torch ×1.40`: it takes 1.4 times as long. */
export const against = (name: string, ratio: number): string => `${name} ×${figures(ratio)}`

const short = { forward: 'fwd', 'forward+backward': 'fwd+bwd', backward: 'bwd', other: '' }

/** One line for each row; the reason of a missing ratio goes to the footnotes. */
export function line(row: Row, notes: Footnotes): string {
  const what =
    `${row.id} ${row.dtype === 'float32' ? '' : `${row.dtype.replace('bfloat16', 'bf16')} `}${short[row.pass]}`.trimEnd()
  const share = row.share === undefined ? '' : percent(row.share)
  const others = row.peers
    .map(({ name, ratio, unavailable = 'not timed' }) =>
      ratio === undefined ? `${name} ${notes.mark(unavailable)}` : against(name, ratio),
    )
    .join(' · ')
  return [
    what.padEnd(52),
    time(row.us.median).padStart(8),
    `${time(row.us.p10)}–${time(row.us.p90)}`.padStart(20),
    share.padStart(6),
    (row.peakBytes === undefined ? '' : bytes(row.peakBytes)).padStart(8),
    others,
  ]
    .join('  ')
    .trimEnd()
}
export const heading = `${'case'.padEnd(52)}  ${'median'.padStart(8)}  ${'p10–p90'.padStart(20)}  ${'share'.padStart(6)}  ${'peak'.padStart(8)}  others: their time over ours`

export const goalTable = (goals: readonly Goal[]): string =>
  textTable([
    ['goal', 'target', 'measured', ''],
    ...goals.map((g) => [
      `${g.goal}${g.cpu === 'avx2' ? ' (AVX2 alone)' : ''}`,
      shown(g, g.target),
      g.measured === undefined ? 'not measured' : shown(g, g.measured),
      g.reached === undefined ? '' : g.reached ? 'reached' : 'not reached',
    ]),
  ])
const shown = ({ unit }: Goal, x: number): string => (unit === '×' ? `${figures(x)} ×` : `${x.toFixed(0)} %`)
