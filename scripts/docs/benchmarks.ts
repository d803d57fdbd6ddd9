// npm run docs:benchmarks: writes docs/benchmarks.md and its charts from the newest result in bench/results, not by
// hand. A test holds the committed page against the committed result.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { argv } from 'node:process'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { svgs } from '../../bench/charts.js'
import { ratios, tableSix } from '../../bench/compare.js'
import { asked, bound } from '../../bench/goals.js'
import { Result, type Goal, type Row } from '../../bench/record.js'
import { against, bytes, figures, percent, time } from '../../bench/table.js'
import { crossover } from '../../bench/cost.js'
import { markdownTable } from '../../lib/report/table.js'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** The newest committed result of a CPU, and its file's name. */
export function newest(): { result: Result; file: string } | undefined {
  const files = readdirSync(join(root, 'bench', 'results')).filter((f) => f.endsWith('.json') && !f.startsWith('gpu-'))
  const all = files.map((file) => ({
    file,
    result: Result.parse(JSON.parse(readFileSync(join(root, 'bench', 'results', file), 'utf8'))),
  }))
  return all
    .filter(({ result }) => result.device === 'cpu')
    .sort((a, b) => (a.result.date < b.result.date ? -1 : 1))
    .at(-1)
}

type Cell = string | number
const list = (lines: readonly string[]): string => lines.map((l) => `- ${l}`).join('\n')
const yes = (x: boolean): string => (x ? 'yes' : 'no')
const ratio = (x: number | undefined): string => (x === undefined ? '–' : figures(x))
const enumerate = (words: readonly Cell[]): string =>
  words.length < 2 ? `${words[0] ?? ''}` : `${words.slice(0, -1).join(', ')} and ${words.at(-1)}`

/** The page of a result; `charts` are those that there are. */
export function page({ result, file }: { result: Result; file: string }, charts: Iterable<string>): string {
  const drawn = new Set(charts)
  const chart = (name: string, what: string): string[] =>
    drawn.has(name) ? [`![${what}](benchmarks/${name}.svg)`] : []
  return `${[
    '# Benchmarks',
    `Written by \`npm run docs:benchmarks\` from [${file}](../bench/results/${file}), which \`npm run bench\` wrote; no figure here is typed by hand.`,
    ...machineSection(result),
    ...goalSection(result),
    ...factorisationSection(result, chart),
    ...tableSixSection(result),
    ...swapSection(result.rows),
    '## Peers',
    ...chart('peers', 'time of peers over ours'),
    ...peerSection(result),
    '## Every case',
    ...chart('shares', 'share of the floor'),
    'The floor of a case is its arithmetic at the rate of multiply-adds, or its weights at the rate of a plain read, whichever takes longer, both measured in the same rounds as the case; the share is floor over time. Shares are of work as the formulas count it: what an implementation saves can raise them, waiting for memory that caches do not hold lowers them.',
    ...suiteSections(result.rows),
    ...(result.failures.length ? ['## What failed', list(result.failures.map((f) => `${f.suite}: ${f.reason}`))] : []),
    '## How it is measured',
    list([
      'Each case runs once on every input to warm up; inputs rotate. Contenders take turns in rounds: ours, peer, peer, ours, and so on, so that what else the machine does meets all of them. A ratio is the median over the rounds of the ratios within a round; times are medians with the 10th and the 90th percentile over all samples.',
      'Our calls are the operators and blocks as a user calls them from JavaScript, allocation included, waited for at the end of each sample. Weights lie in a safetensors file and come through the loader of checkpoints; the peers read the same numbers.',
      'Before a peer is timed its results are compared with ours: in float32 every output and gradient no further than 1e-4 of its norm; where bfloat16 is involved outputs 2e-2, and the gradients together 5e-2. Otherwise no ratio is given.',
      '“bfloat16” is matrices and activations in bfloat16, “mixed” activations in float32 on such matrices: how a 16-bit checkpoint is used by default. The floor of both is that of bfloat16 instructions where the machine has them.',
      'Memory is what this project’s allocator held at most during one call, less what it held before.',
    ]),
  ].join('\n\n')}\n`
}

function machineSection(r: Result): string[] {
  const { machine: m, versions, ceilings } = r
  const unit = (name: string): string => (name === 'float32' || name === 'bfloat16' ? 'GFLOP/s' : 'GB/s')
  return [
    list([
      `machine: ${m.cpu}, ${m.cores} cores, ${bytes(m.memory)}, ${m.isa}, ${m.system}, transparent huge pages: ${m.hugePages ?? 'none'}; load average ${r.load.before.toFixed(1)} before and ${r.load.after.toFixed(1)} after`,
      `versions: ${Object.entries(versions)
        .map(([k, v]) => `${k} ${v}`)
        .join(', ')}; commit ${r.commit ?? 'unknown'}${r.changed ? ', with uncommitted changes' : ''}`,
      `run: ${r.date.slice(0, 16).replace('T', ' ')} UTC, device ${r.device}, threads: ${enumerate([...new Set(r.rows.map((row) => row.threads))].sort((a, b) => a - b))}, ${Math.round(r.seconds)} s, selection “${r.selection}”, times by ${r.clock === 'wall' ? 'the wall' : 'CPU time of the processes, but for steps, loading and calls'}`,
    ]),
    markdownTable(
      ['ceiling', 'threads', 'kernels', 'median', 'p10', 'p90', 'samples'],
      ceilings.map((c) => [
        c.name,
        c.threads,
        c.cpu,
        `${figures(c.rate.median / 1e9)} ${unit(c.name)}`,
        figures(c.rate.p10 / 1e9),
        figures(c.rate.p90 / 1e9),
        c.rate.samples,
      ]),
    ),
  ]
}

function goalSection({ goals, rows }: Result): string[] {
  const shown = (g: Goal, x: number | undefined): string =>
    x === undefined ? 'not measured' : g.unit === '×' ? `${figures(x)} ×` : `${x.toFixed(0)} %`
  const measured = goals.filter((g) => g.reached !== undefined)
  const missed = measured.filter((g) => !g.reached)
  /** With another digit where rounding would hide that it was missed. */
  const near = (g: Goal): string =>
    g.reached === false && shown(g, g.measured) === shown(g, g.target)
      ? g.unit === '×'
        ? `${g.measured!.toFixed(3)} ×`
        : `${g.measured!.toFixed(1)} %`
      : shown(g, g.measured)
  const share = (g: Goal): string => {
    const found = asked(g, rows)
    return found ? `${percent(found.share)}; ${percent(found.asked)}` : '–'
  }
  const names = (some: readonly Goal[]): string =>
    [...new Set(some.map((g) => `${g.goal}${g.cpu === 'avx2' ? ' (AVX2 alone)' : ''}`))].join('; ')
  return [
    '## Goals',
    'One thread where nothing else is said. “×” is how many times as long the other side takes in the same run: the peer, the joint form, one thread. “AVX2 alone” is a second process that uses no wider instructions and asks its peers to do so too (ONNX Runtime cannot be asked); its targets are a tenth lower. Where the target is a peer’s time, the last column says which share of its floor (below: at the measured rate of multiply-adds) the case reached, and which share the target would take beside this peer: above 100 % nobody reaches it.',
    `Of ${goals.length} targets ${measured.length} were measured in this run, of those ${measured.filter((g) => g.reached).length} reached.`,
    markdownTable(
      ['goal', 'from', 'kernels', 'target', 'measured', 'reached', 'share of the floor; asked'],
      goals.map((g) => [
        g.goal,
        g.from,
        g.cpu === 'avx2' ? 'AVX2 alone' : 'best',
        `≥ ${shown(g, g.target)}`,
        near(g),
        g.reached === undefined ? '–' : g.reached ? 'yes' : '**no**',
        share(g),
      ]),
    ),
    ...(missed.length
      ? [
          'What bounds those that are missed:',
          list(
            [...new Set(missed.map((g) => bound(g)))].map(
              (why) => `${names(missed.filter((g) => bound(g) === why))}: ${why}.`,
            ),
          ),
        ]
      : []),
  ]
}

function factorisationSection({ rows }: Result, chart: (name: string, what: string) => string[]): string[] {
  const all = ratios(rows).filter((r) => r.core ?? r.block)
  if (!all.length) return []
  const forward = all.filter((r) => r.K === 0 && r.pass === 'forward' && r.dtype === 'float32')
  const slower = forward.filter((r) => r.block && r.block < 1).map((r) => r.T)
  const faster = forward.filter((r) => r.block && r.block >= 1).map((r) => r.T)
  const withText = all.filter((r) => r.K > 0 && r.block && r.block < 1)
  return [
    '## What attention in space and then in time saves',
    'Joint over factorized: above 1, factorized is cheaper. Three ratios that are not to be mixed up: score products (counted), the attention core (fused, both ours), the whole block with its projections, which factorized runs twice. Beside them what a user feels at every length: the visual tokens that the language model reads.',
    markdownTable(
      [
        'T',
        'K',
        'dtype',
        'pass',
        'score products, counted',
        'core, measured',
        'block operations, counted',
        'block, measured',
        'peak memory of the core, joint → factorized',
        'visual tokens, all frames → ours',
      ],
      all.map((r) => [
        r.T,
        r.K,
        r.dtype,
        r.pass,
        ratio(r.scores),
        ratio(r.core),
        ratio(r.blockFlops),
        ratio(r.block),
        r.memory ? r.memory.map(bytes).join(' → ') : '–',
        r.tokens.join(' → '),
      ]),
    ),
    [
      `By count the block costs less from T = ${crossover({ queries: 32 }, 768)} on without text.`,
      ...(slower.length
        ? [
            `Measured without text, the factorized block is slower than the joint one at T = ${enumerate(slower)}${faster.length ? ` and faster at T = ${enumerate(faster)}` : ''}.`,
          ]
        : faster.length
          ? [`Measured without text, it is faster at T = ${enumerate(faster)}.`]
          : []),
      ...(withText.length
        ? [
            `With text, which every frame carries a copy of, it is slower at ${enumerate(withText.map((r) => `T = ${r.T}, K = ${r.K}`))}.`,
          ]
        : []),
      'What is saved at every length is the tokens.',
    ].join(' '),
    ...chart('ratios', 'the three ratios over the number of frames'),
    ...chart('forms', 'time over the number of frames'),
    ...chart('memory', 'memory over the number of frames'),
  ]
}

function tableSixSection({ rows }: Result): string[] {
  const T = 8
  const { models, trained, prompt } = tableSix(T)
  const video = rows.filter((r) => r.id.startsWith('video Q-Former') && r.cpu !== 'avx2')
  return [
    '## Table VI of the paper, with numbers',
    `The first six columns are the paper’s. The rest is its formulas at f = ${T} frames of s = 32 tokens: pairs of query and key in one layer and head, visual tokens, and the forward operations of a LLaMA of 7 B over these and ${prompt} tokens of prompt. Trained parameters of this model, counted: ${trained.toLocaleString('en')}.`,
    markdownTable(
      [
        'model',
        'video pre-training',
        'complexity',
        'trained',
        'language model frozen',
        'projection frozen',
        'score pairs',
        'attention, MFLOP a layer',
        'visual tokens',
        'language model, TFLOP',
      ],
      models.map((m) => [
        m.name,
        yes(m.videoPretraining),
        m.form,
        m.trained,
        yes(m.languageFrozen),
        yes(m.projectionFrozen),
        m.scores.toLocaleString('en'),
        figures(m.coreMflops),
        m.visualTokens,
        figures(m.languageTflops),
      ]),
    ),
    ...(video.length
      ? [
          'Video-LLaMA’s way to time, a second Q-Former of two layers over the tokens of all frames, built of our own layers and run:',
          markdownTable(
            ['frames', 'tokens it reads', 'its parameters', 'time', 'p10–p90', 'share of the floor'],
            video.map((r) => [
              r.sizes.T!,
              r.sizes.T! * r.sizes.L!,
              r.sizes.parameters!.toLocaleString('en'),
              time(r.us.median),
              `${time(r.us.p10)}–${time(r.us.p90)}`,
              r.share === undefined ? '–' : percent(r.share),
            ]),
          ),
          'It has parameters of its own to pre-train, and hands 32 tokens to the language model too, as its authors released it: the table counts s·f for it because the paper does. Attention in time with the frozen spatial weights has none beyond LoRA and routers.',
        ]
      : []),
  ]
}

function swapSection(rows: readonly Row[]): string[] {
  const mine = rows.filter((r) => r.suite === 'swap')
  if (!mine.length) return []
  const way = (r: Row, name: string): number | undefined => r.peers.find((p) => p.name === name)?.ratio
  const times = (x: number | undefined): string => (x === undefined ? '–' : `× ${figures(x)}`)
  const blocks = mine.filter((r) => r.id.startsWith('block') && way(r, 'with copies'))
  return [
    '## The channel swap: a stride or a copy',
    markdownTable(
      ['case', 'dtype', 'by strides', 'with copies', 'already in order'],
      mine.map((r) => [
        r.id.replace(', by strides', ''),
        r.dtype,
        time(r.us.median),
        times(way(r, 'with copies')),
        times(way(r, 'already in order')),
      ]),
    ),
    `Strides save ${enumerate(blocks.map((r) => `${(100 * (1 - 1 / way(r, 'with copies')!)).toFixed(1)} % of the block at T = ${r.sizes.T} (${r.dtype})`))}: little, as the projections take most of its time. “Already in order” is attention alone over tokens that lie one after another: what strided reading costs.`,
  ]
}

function peerSection({ peers, missing, rows }: Result): string[] {
  const reasons = new Map<string, string[]>()
  for (const r of rows)
    for (const p of r.peers)
      if (p.unavailable)
        reasons.set(`${p.name}: ${p.unavailable}`, [...(reasons.get(`${p.name}: ${p.unavailable}`) ?? []), r.id])
  return [
    ...(peers.length
      ? [
          markdownTable(
            ['peer', 'version', 'with'],
            peers.map((p) => [
              p.name,
              p.version,
              Object.entries(p.details)
                .map(([k, v]) => `${k}: ${v}`)
                .join('; '),
            ]),
          ),
        ]
      : []),
    ...(missing.length ? ['Missing in this run:', list(missing.map((m) => `${m.name}: ${m.reason}`))] : []),
    ...(reasons.size
      ? [
          'Not compared:',
          list(
            [...reasons].map(
              ([why, ids]) => `${why.replaceAll('\n', ' ')} (${ids.length === 1 ? ids[0] : `${ids.length} cases`})`,
            ),
          ),
        ]
      : []),
  ]
}

function suiteSections(rows: readonly Row[]): string[] {
  return [...new Set(rows.map((r) => r.suite))].flatMap((suite) => [
    `### ${suite}`,
    markdownTable(
      [
        'case',
        'dtype',
        'pass',
        'threads',
        'median',
        'p10–p90',
        'floor',
        'share',
        'bound by',
        'peak memory',
        'others: their time over ours (difference)',
      ],
      rows
        .filter((r) => r.suite === suite)
        .map((r) => [
          `${r.id}${r.cpu === 'avx2' ? ' (AVX2 alone)' : ''}`,
          r.dtype,
          r.pass,
          r.threads,
          time(r.us.median),
          `${time(r.us.p10)}–${time(r.us.p90)}`,
          r.floorUs === undefined ? '–' : time(r.floorUs),
          r.share === undefined ? '–' : percent(r.share),
          r.bound,
          r.peakBytes === undefined ? '–' : bytes(r.peakBytes),
          r.peers
            .flatMap(({ name, ratio, difference }) =>
              ratio ? `${against(name, ratio)}${difference == null ? '' : ` (${difference.toExponential(0)})`}` : [],
            )
            .join(', ') || '–',
        ]),
    ),
  ])
}

if (argv[1] && import.meta.url === pathToFileURL(argv[1]).href) {
  const found = newest()
  if (!found) throw new Error('bench/results holds no result of a CPU; npm run bench writes one')
  const charts = await svgs(found.result)
  mkdirSync(join(root, 'docs', 'benchmarks'), { recursive: true })
  for (const [name, svg] of charts) writeFileSync(join(root, 'docs', 'benchmarks', `${name}.svg`), svg)
  writeFileSync(join(root, 'docs', 'benchmarks.md'), page(found, charts.keys()))
}
