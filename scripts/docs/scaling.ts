// npm run docs:scaling: writes docs/scaling.md from the newest result in bench/results/scaling, not by hand. A test holds
// the committed page against the committed result.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { argv } from 'node:process'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { quantile } from '../../bench/harness.js'
import { exchangeSeconds, receivedBytes, Scaling, type Link } from '../../bench/scaling/record.js'
import { markdownTable } from '../../lib/report/table.js'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** The newest committed result, and its file's name. */
export function newest(): { result: Scaling; file: string } | undefined {
  const folder = join(root, 'bench', 'results', 'scaling')
  return readdirSync(folder)
    .filter((f) => f.endsWith('.json'))
    .map((file) => ({ file, result: Scaling.parse(JSON.parse(readFileSync(join(folder, file), 'utf8'))) }))
    .sort((a, b) => (a.result.date < b.result.date ? -1 : 1))
    .at(-1)
}

/** The share of times whose limit is given: what others that compute beside it disturb least. */
const SHARE = 0.1
const below = (share: number, seconds: readonly number[]): number =>
  quantile(
    [...seconds].sort((a, b) => a - b),
    share,
  )
const fast = (seconds: readonly number[]): number => below(SHARE, seconds)
/** The same of the slower of two that are drawn of them: the share of pairs that stay below is the square of it. */
const fastOfSlower = (seconds: readonly number[]): number => below(Math.sqrt(SHARE), seconds)

const FLOAT = 4
/** Of the adapter at its defaults on the paper's model (docs/model.md). */
const PARAMETERS = 2_499_126
const RANKS = [1, 2, 4, 8, 16, 32, 64]
/** Networks, in bits per second, with what a message takes on them. */
const NETWORKS = [
  { name: '10 Gbit/s', bits: 10e9, latency: 20e-6 },
  { name: '100 Gbit/s', bits: 100e9, latency: 2e-6 },
]
/** Seconds that a rank computes in a step. */
const COMPUTED = [0.5, 2]

const milliseconds = (s: number): string => {
  const ms = s * 1000
  return `${ms < 0.01 ? ms.toFixed(4) : ms < 1 ? ms.toFixed(3) : ms < 100 ? ms.toFixed(1) : ms.toFixed(0)} ms`
}
const bytes = (n: number): string =>
  n < 1000 ? `${n} B` : n < 1e6 ? `${(n / 1000).toFixed(0)} kB` : `${(n / 1e6).toFixed(n < 1e8 ? 1 : 0)} MB`
const percent = (x: number): string => `${(100 * x).toFixed(0)} %`

/** What this machine's memory is as a network: from an exchange of many bytes, one of few, and a sum. */
export function linkOf({ exchanges, sums }: Scaling): Link {
  const [sum] = sums as [Scaling['sums'][number]]
  const own = exchanges.filter((e) => e.mpi === sum.mpi)
  const [least, most] = [own[0]!, own.at(-1)!]
  const [short, long] = [fast(least.seconds), fast(most.seconds)]
  const add = Math.max(1e-6, fast(sum.seconds) - long)
  // An exchange is two all-gathers.
  return { latency: short / 2, rate: most.bytes / (long - short), add: (FLOAT * sum.parameters) / add }
}

/**
 * Seconds of a step by two ranks, measured, and as the model says from two runs side by side of half the samples: of
 * such a pair each step lasts as long as the slower one's.
 */
export function checked(
  result: Scaling,
): Record<'measured' | 'predicted' | 'one' | 'half' | 'beside' | 'slower', number> {
  const two = result.steps.find((s) => s.ranks === 2)!
  const of = (runs: number, batch: number): readonly number[] =>
    result.steps.find((s) => s.ranks === 1 && s.runs === runs && s.batch === batch)!.seconds
  const [one, half, pair] = [fast(of(1, two.batch)), fast(of(1, two.batch / 2)), of(2, two.batch / 2)]
  const [beside, slower] = [fast(pair), fastOfSlower(pair)]
  const predicted = slower + exchangeSeconds(2, two.parameters, linkOf(result))
  return { measured: fast(two.seconds), predicted, one, half, beside, slower }
}

/** The page of a result. */
export function page({ result, file }: { result: Scaling; file: string }): string {
  const { machine, exchanges, sums, steps } = result
  const link = linkOf(result)
  const { measured, predicted, one, half, beside, slower } = checked(result)
  const two = steps.find((s) => s.ranks === 2)!
  const gradient = FLOAT * PARAMETERS
  return `${[
    '# Several ranks: what a step costs',
    `How long ranks take for what they tell each other ([parallel](parallel.md) has how they are started). Written by \`npm run docs:scaling\` from [${file}](../bench/results/scaling/${file}), which \`npm run bench:scaling\` wrote; no figure here is typed by hand. Machine: ${machine.cpu}, ${machine.cores} cores, ${machine.system}. Commit ${result.commit?.slice(0, 10) ?? 'unknown'}${result.changed ? ', changed' : ''}, ${result.date.slice(0, 10)}, load average ${result.load.toFixed(1)} before it: where that is above 0, others computed beside it, so that each time here is what the fastest tenth stays below.`,
    '## Bytes of a step',
    `At the defaults ${PARAMETERS.toLocaleString('en')} parameters are trained, a gradient of ${bytes(gradient)}. Each rank adds one of N parts of it: it receives that part of N − 1 others, and then the sums of their parts, less than ${bytes(2 * gradient)} a step however many ranks there are, and sends as much. Beside it are messages of a few bytes: what comes next, and the clips that cannot be used. Frozen weights, activations and features are never sent.`,
    '## Measured',
    `Two ranks of this machine, by shared memory; ${exchanges[0]!.seconds.length} exchanges each. An exchange tells first how long it is. The sum takes ${(sums[0]!.parameters / 1e6).toFixed(1)} M parameters in 250 tensors: ${result.version === 1 ? 'made one buffer, exchanged whole, and added whole by each rank, as was done when this was measured; now each adds a part, and the sums are exchanged: by two ranks as many bytes' : 'made one buffer, exchanged by parts, added in rank order, exchanged again'}.`,
    markdownTable(
      ['MPI', 'what', 'bytes of a rank', 'time'],
      [
        ...exchanges.map((e) => [e.mpi, 'exchange', bytes(e.bytes), milliseconds(fast(e.seconds))]),
        ...sums.map((s) => [s.mpi, 'sum of gradients', bytes(FLOAT * s.parameters), milliseconds(fast(s.seconds))]),
      ],
    ),
    '## A model of the step',
    `A rank computes its share, receives twice (N − 1)/N of a gradient, and adds N of its parts: c + (3⌈log₂N⌉ + 2(N − 1))·latency + 2(N − 1)/N·bytes/rate + bytes/${(link.add / 1e9).toFixed(1)} GB/s, the last as measured above. The computation is not overlapped with the exchange.`,
    `Checked on this machine (latency ${milliseconds(link.latency)}, ${(link.rate / 1e9).toFixed(1)} GB/s, one thread a rank) with a small run of ${(two.parameters / 1000).toFixed(1)} k parameters and ${two.batch} samples a step. A step by one rank takes ${milliseconds(one)}, and with half the samples ${milliseconds(half)}. Two such runs side by side, which exchange nothing, share this machine's cores, caches and memory: each takes ${milliseconds(beside)}, ${(beside / half).toFixed(2)} times as long. A step by two ranks lasts as long as its slower one, which of two such runs takes ${milliseconds(slower)}: that is c here. Ranks on machines of their own share nothing; theirs is the ${milliseconds(half)}. By two ranks a step takes ${milliseconds(measured)}; the model says ${milliseconds(predicted)}, ${percent(Math.abs(predicted / measured - 1))} ${predicted > measured ? 'more' : 'less'}.`,
    `Of the adapter of full size over a network (latency ${NETWORKS.map((n) => `${(n.latency * 1e6).toFixed(0)} µs at ${n.name}`).join(', ')}). Efficiency: of the time of a step, the share that a rank computes, where that is ${COMPUTED.map((c) => `${c} s`).join(' or ')}.`,
    markdownTable(
      [
        'ranks',
        'received a step',
        ...NETWORKS.flatMap(({ name }) => [`exchange, ${name}`, ...COMPUTED.map((c) => `efficiency, ${c} s`)]),
      ],
      RANKS.map((ranks) => [
        ranks,
        bytes(receivedBytes(ranks, PARAMETERS)),
        ...NETWORKS.flatMap(({ bits, latency }) => {
          const seconds = exchangeSeconds(ranks, PARAMETERS, { rate: bits / 8, latency, add: link.add })
          return [ranks === 1 ? '-' : milliseconds(seconds), ...COMPUTED.map((c) => percent(c / (c + seconds)))]
        }),
      ]),
    ),
    'An all-reduce of MPI receives as many bytes, and promises no order: here each part is added by one rank, in rank order, which is what makes a rerun give the same bits, whatever the MPI library or the network does.',
  ].join('\n\n')}\n`
}

if (argv[1] && import.meta.url === pathToFileURL(argv[1]).href) {
  const found = newest()
  if (!found) throw new Error('there is no result in bench/results/scaling: npm run bench:scaling')
  writeFileSync(join(root, 'docs', 'scaling.md'), page(found))
}
