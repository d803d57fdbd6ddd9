// Stage `table`: joins our rows with those of the peers and prints at most 60 lines to stderr: what was timed, the floor from
// this run's ceilings, the best peer, how far results are apart. The joined rows become part of the result.
//   node bench/gpu/table.mjs --result FILE     also for a result of another day
import { readFileSync, renameSync, writeFileSync } from 'node:fs'

const option = (name) => (process.argv.includes(`--${name}`) ? process.argv[process.argv.indexOf(`--${name}`) + 1] : undefined)
const { name, date, stages } = JSON.parse(readFileSync(option('result'), 'utf8'))
const rowsOf = (stage) => stages[stage]?.result?.rows ?? []
const emulated = Boolean(stages.kernels?.result?.emulated ?? stages.build?.result?.devices?.cuda?.emulated)

/** How far the samples of outputs are apart, in norm; null where there is nothing to compare. */
export function difference(mine, theirs) {
  if (!mine?.length || mine.length !== theirs?.length) return null
  let [apart, whole] = [0, 0]
  mine.forEach((m, i) => m.at.forEach((x, k) => {
    apart += (x - theirs[i].at[k]) ** 2
    whole += theirs[i].at[k] ** 2
  }))
  return Math.sqrt(apart / (whole || 1))
}

/** Our rows with the fastest peer under a graph and, apart, the fastest launched by PyTorch. */
function joined() {
  const peers = rowsOf('peers').filter((p) => p.status === 'ok' && p.us)
  const ours = [...rowsOf('kernels').filter((r) => r.us), ...rowsOf('node').filter((r) => r.us)]
  return ours.map((r) => {
    const [item, pass] = r.item ? [r.item, r.pass] : [r.id, 'forward']
    const fitting = peers.filter((p) => p.item === item && p.pass === pass)
    const fastest = (modes) => fitting.filter((p) => modes.includes(p.mode)).sort((a, b) => a.us.median - b.us.median)[0]
    const short = (p) => p && { peer: p.peer, mode: p.mode, us: p.us.median, ratio: p.us.median / r.us.median, same: p.same }
    const errors = fitting.filter((p) => p.same).map((p) => difference(r.digest, p.digest)).filter((e) => e !== null)
    return {
      id: r.id, us: r.us.median, ...(r.warmUs && { warmUs: r.warmUs.median }), ...(r.floorUs !== undefined && { floorUs: r.floorUs, share: r.floorUs / r.us.median, bound: r.bound }),
      ...(r.goalUs !== undefined && { goalUs: r.goalUs, ...(!emulated && { met: r.us.median <= r.goalUs }) }),
      ...(fitting.length && { graph: short(fastest(['graph', 'compile'])) ?? null, eager: short(fastest(['eager'])) ?? null }), ...(errors.length && { error: Math.max(...errors) }),
    }
  })
}

const rows = joined()
const to = option('to')
if (to) {
  writeFileSync(`${to}.part`, JSON.stringify({ rows }))
  renameSync(`${to}.part`, to)
}

const number = (x) => (x === undefined || x === null ? '–' : x >= 1000 ? x.toFixed(0) : x.toPrecision(3))
const columns = [['what', 34, (r) => r.id], ['µs', 8, (r) => number(r.us)], ['warm', 8, (r) => number(r.warmUs)], ['floor', 8, (r) => number(r.floorUs)], ['%', 4, (r) => (r.share === undefined ? '–' : (100 * r.share).toFixed(0))],
  ['goal', 7, (r) => number(r.goalUs)], ['', 4, (r) => (r.met === undefined ? '' : r.met ? 'met' : 'no')], ['peer, graph', 22, (r) => (r.graph ? `${r.graph.peer}${r.graph.same ? '' : '*'} ${number(r.graph.us)}` : '–')],
  ['×', 6, (r) => number(r.graph?.ratio)], ['eager ×', 7, (r) => number(r.eager?.ratio)], ['error', 8, (r) => (r.error === undefined ? '–' : r.error.toExponential(1))]]
const line = (cell) => columns.map(([title, width, f], i) => { const text = cell(title, f).slice(0, width); return i === 0 || i === 7 ? text.padEnd(width) : text.padStart(width) }).join(' ').trimEnd()

const facts = stages.machine?.result ?? {}
const counts = (stage) => { const all = rowsOf(stage); return all.length ? ` ${all.filter((r) => r.status === 'ok').length} of ${all.length} rows` : '' }
const head = [
  `${name}, ${date}${emulated ? ': EMULATED on the CPU, times mean nothing' : ''}; ${facts.gpus ?? 'no GPU'}`,
  ...Object.entries(stages).filter(([s]) => s !== 'machine' && s !== 'table').map(([s, { status, seconds, reason }]) => `  ${s.padEnd(10)} ${status.padEnd(11)} ${String(seconds).padStart(4)} s ${counts(s)}${reason ? `  ${reason}`.slice(0, 110) : ''}`),
]
const body = rows.length ? [line((title) => title), ...rows.map((r) => line((_, f) => f(r)))] : ['nothing was timed']
const room = 60 - head.length - 1
const cut = body.length > room ? [...body.slice(0, room - 1), `${body.length - room + 1} more rows in the result`] : body
console.error([...head, ...cut, '× how many times longer the peer takes; * a peer that computes less (no routing)'].join('\n'))
console.log(`${rows.length} rows`)
