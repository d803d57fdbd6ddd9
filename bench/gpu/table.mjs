// Stage `table`: joins our rows with those of the peers and prints at most 60 lines to stderr: what was timed, the
// floor from this run's ceilings, the best peer, how far results are apart. The joined rows become part of the result.
//   node --import tsx bench/gpu/table.mjs --result FILE     also for a result of another day
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { textTable } from '../../lib/report/table.ts'

const option = (name) =>
  process.argv.includes(`--${name}`) ? process.argv[process.argv.indexOf(`--${name}`) + 1] : undefined
const { name, date, stages } = JSON.parse(readFileSync(option('result'), 'utf8'))
const rowsOf = (stage) => stages[stage]?.result?.rows ?? []
const emulated = Boolean(stages.kernels?.result?.emulated ?? stages.build?.result?.devices?.cuda?.emulated)

/** How far the samples of outputs are apart, in norm; null where there is nothing to compare. */
function difference(mine, theirs) {
  if (!mine?.length || mine.length !== theirs?.length) return null
  let [apart, whole] = [0, 0]
  mine.forEach((m, i) =>
    m.at.forEach((x, k) => {
      apart += (x - theirs[i].at[k]) ** 2
      whole += theirs[i].at[k] ** 2
    }),
  )
  return Math.sqrt(apart / (whole || 1))
}

/** Our rows with the fastest peer under a graph and, apart, the fastest launched by PyTorch. */
function joined() {
  const peers = rowsOf('peers').filter((p) => p.status === 'ok' && p.us)
  const ours = [...rowsOf('kernels'), ...rowsOf('node')].filter((r) => r.us)
  return ours.map((r) => {
    const fitting = peers.filter((p) => p.item === r.item && p.pass === r.pass)
    const fastest = (modes) =>
      fitting.filter((p) => modes.includes(p.mode)).sort((a, b) => a.us.median - b.us.median)[0]
    const short = (p) =>
      p && { peer: p.peer, mode: p.mode, us: p.us.median, ratio: p.us.median / r.us.median, same: p.same }
    const errors = fitting
      .filter((p) => p.same)
      .map((p) => difference(r.digest, p.digest))
      .filter((e) => e !== null)
    return {
      id: r.id,
      item: r.item,
      pass: r.pass,
      ...(r.gemm && { gemm: r.gemm }),
      us: r.us.median,
      ...(r.warmUs && { warmUs: r.warmUs.median }),
      ...(r.floorUs !== undefined && { floorUs: r.floorUs, share: r.floorUs / r.us.median, bound: r.bound }),
      ...(r.goalUs !== undefined && { goalUs: r.goalUs, ...(!emulated && { met: r.us.median <= r.goalUs }) }),
      ...(fitting.length && {
        graph: short(fastest(['graph', 'compile'])) ?? null,
        eager: short(fastest(['eager'])) ?? null,
      }),
      ...(errors.length && { error: Math.max(...errors) }),
    }
  })
}

/** Attention in space and in time against one attention over all tokens: ours, and the fastest peer's. */
function factorized(rows) {
  const of = (item, pass) => rows.find((r) => r.item === item && r.pass === pass && r.gemm !== 'cublaslt')
  return [
    ['4/8/32', '4/8'],
    ['4/32/32', '4/32'],
    ['8/64/32', '8/64'],
  ].flatMap(([space, time]) =>
    ['forward', 'backward'].flatMap((pass) => {
      const parts = [of(`spatial ${space}`, pass), of(`temporal ${time}`, pass)]
      const joint = of(`joint ${space}`, pass)
      if (!parts.every(Boolean) || !joint) return []
      const us = parts[0].us + parts[1].us
      return [
        {
          item: space,
          pass,
          us,
          jointUs: joint.us,
          ratio: joint.us / us,
          ...(joint.graph && { peerJointUs: joint.graph.us, peerRatio: joint.graph.us / us, peer: joint.graph.peer }),
        },
      ]
    }),
  )
}

const rows = joined()
const ratios = factorized(rows)
const to = option('to')
if (to) {
  writeFileSync(`${to}.part`, JSON.stringify({ rows, factorized: ratios }))
  renameSync(`${to}.part`, to)
}

const number = (x) => (x === undefined || x === null ? '–' : x >= 1000 ? x.toFixed(0) : x.toPrecision(3))
const perPass = (pass, title) => [
  [title, (p) => number(p[pass]?.us)],
  ['floor', (p) => number(p[pass]?.floorUs)],
  ['%', (p) => (p[pass]?.share === undefined ? '–' : (100 * p[pass].share).toFixed(0))],
  [
    'goal',
    (p) =>
      p[pass]?.goalUs === undefined
        ? '–'
        : `${number(p[pass].goalUs)}${p[pass].met === undefined ? '' : p[pass].met ? ' ok' : ' no'}`,
  ],
  ['×graph', (p) => number(p[pass]?.graph?.ratio)],
  ['×eager', (p) => number(p[pass]?.eager?.ratio)],
]
const columns = [
  ['', (p) => p.item.slice(0, 36)],
  ...perPass('forward', 'fwd µs'),
  ...perPass('backward', 'bwd µs'),
  [
    'error',
    (p) => {
      const e = ['forward', 'backward'].flatMap((pass) => p[pass]?.error ?? [])
      return e.length ? Math.max(...e).toExponential(1) : '–'
    },
  ],
  [
    'best peer',
    (p) => {
      const g = p.forward?.graph ?? p.forward?.eager
      return g ? `${g.peer}${g.same ? '' : '*'}`.slice(0, 24) : '–'
    },
  ],
]
// What cuBLASLt computes has a line of its own, below that of our kernels.
const lineOf = (r) => (r.gemm === 'cublaslt' ? `${r.item}, cublaslt` : r.item)
const items = [...new Set(rows.map((r) => r.item))]
  .flatMap((item) => [...new Set(rows.filter((r) => r.item === item).map(lineOf))])
  .filter((item) => !/, launched/.test(item))
  .map((item) => ({ item, ...Object.fromEntries(rows.filter((r) => lineOf(r) === item).map((r) => [r.pass, r])) }))

const facts = stages.machine?.result ?? {}
const counts = (stage) => {
  const all = rowsOf(stage)
  return all.length ? `${all.filter((r) => r.status === 'ok').length} of ${all.length} rows; ` : ''
}
const head = [
  `${name}, ${date}${emulated ? ': EMULATED on the CPU, times mean nothing' : ''}; ${facts.gpus ?? 'no GPU'}`,
  ...Object.entries(stages)
    .filter(([s]) => s !== 'machine' && s !== 'table')
    .map(([s, { status, seconds, reason }]) =>
      `  ${s.padEnd(10)} ${status.padEnd(11)} ${String(seconds).padStart(4)} s  ${counts(s)}${reason ?? ''}`.slice(
        0,
        150,
      ),
    ),
]
const tail = [
  ...[...new Set(ratios.map((r) => r.item))].map(
    (item) =>
      `space + time ${item}: ${ratios
        .filter((r) => r.item === item)
        .map(
          (r) =>
            `${r.pass} ${number(r.us)} µs, joint ×${number(r.ratio)}${r.peer ? `, by ${r.peer} ×${number(r.peerRatio)}` : ''}`,
        )
        .join('; ')}`,
  ),
  '× how many times longer it takes; * a peer that computes less (no routing, no padding, or no attention in time); ok, no: the goal',
  ...['ceilings', 'node', 'kernels'].flatMap((s) =>
    (stages[s]?.result?.clocks ?? []).map(({ during, is }) => `clocks during ${s}, ${during}: ${is}`.slice(0, 150)),
  ),
]
const cells = [columns.map(([title]) => title), ...items.map((p) => columns.map(([, cell]) => cell(p)))]
const text = textTable(cells, (column) => column > 0 && column < columns.length - 1)
const body = items.length ? text.split('\n') : ['nothing was timed']
const room = 60 - head.length - tail.length
const cut = body.length > room ? [...body.slice(0, room - 1), `${body.length - room + 1} more in the result`] : body
console.error([...head, ...cut, ...tail].join('\n'))
console.log(`${rows.length} rows`)
