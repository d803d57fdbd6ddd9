// npm run docs:peers: writes docs/peers.md from the newest result in bench/results/peers, not by hand. A test holds the
// committed page against the committed result.
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { argv } from 'node:process'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { median, ratio } from '../../bench/harness.js'
import { Peers, type ContenderName, type PeersRun } from '../../bench/whole/record.js'
import { markdownTable } from '../../lib/report/table.js'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** The newest committed result, and its file's name. */
export function newest(): { result: Peers; file: string } | undefined {
  const folder = join(root, 'bench', 'results', 'peers')
  if (!existsSync(folder)) return undefined
  return readdirSync(folder)
    .filter((f) => f.endsWith('.json'))
    .map((file) => ({ file, result: Peers.parse(JSON.parse(readFileSync(join(folder, file), 'utf8'))) }))
    .sort((a, b) => (a.result.runs[0]!.date < b.result.runs[0]!.date ? -1 : 1))
    .at(-1)
}

const TITLES: Record<ContenderName, string> = {
  mtransllama: 'mtransllama',
  concat: 'mtransllama, `aggregate: concat`',
  same: 'mtransllama, as the peer computes',
  transformers: 'transformers with PEFT',
  compiled: 'transformers with PEFT, compiled',
}

const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(2)} GB`
const seconds = (s: number): string => (s < 1 ? `${(1000 * s).toFixed(0)} ms` : `${s.toFixed(2)} s`)
const times = (x: number): string => `${x.toFixed(x < 10 ? 2 : 1)}×`
/** The least and the largest, in brackets. */
const range = (values: readonly number[], show: (x: number) => string): string =>
  values.length > 1 ? ` (${show(Math.min(...values))}–${show(Math.max(...values))})` : ''

/** A quantity, one number a process; the first step and the first token of a process count apart. */
interface Quantity {
  title: string
  of(sample: PeersRun['samples'][number]): number | undefined
  show(x: number): string
}
const OPEN: Quantity = { title: 'open', of: ({ ask }) => ask?.loadSeconds, show: seconds }
const FEATURES: Quantity = { title: 'features of a clip', of: ({ ask }) => ask?.featureSeconds, show: seconds }
const FIRST: Quantity = { title: 'first token', of: ({ ask }) => ask?.firstTokenSeconds, show: seconds }
const ANSWER: Quantity = {
  title: 'from open to the first token',
  of: ({ ask }) => ask && ask.loadSeconds + ask.featureSeconds + ask.firstTokenSeconds,
  show: seconds,
}
const TOKEN: Quantity = { title: 'a token', of: ({ ask }) => ask && median(ask.tokenSeconds), show: seconds }
const STEP: Quantity = {
  title: 'training step',
  of: ({ train }) => train && median(train.stepSeconds.slice(1)),
  show: seconds,
}
const ASK_PEAK: Quantity = { title: 'peak, asking', of: ({ ask }) => ask?.peakBytes, show: gigabytes }
const TRAIN_PEAK: Quantity = { title: 'peak, training', of: ({ train }) => train?.peakBytes, show: gigabytes }
const ALL = [OPEN, FEATURES, FIRST, ANSWER, TOKEN, STEP, ASK_PEAK, TRAIN_PEAK]

/** A contender's numbers, one a round. */
function numbers({ samples }: PeersRun, contender: ContenderName, { of }: Quantity): number[] {
  return samples.filter((s) => s.contender === contender).flatMap((s) => of(s) ?? [])
}

/** One contender's over another's: the median of the rounds. */
function over(run: PeersRun, a: ContenderName, b: ContenderName, what: Quantity): number | undefined {
  const [x, y] = [numbers(run, a, what), numbers(run, b, what)]
  return x.length && y.length ? ratio(x, y) : undefined
}

// --------------------------------------------------------------------------------------------------------------- goals

/** Why a goal is missed, by dtype and goal; from a profile of our step. */
const REASONS: readonly { dtype: PeersRun['dtype']; goal: string; why: string }[] = [
  {
    dtype: 'float32',
    goal: 'training step',
    why: 'nearly all of our step is products, and the peer’s are of the same kind. More than half of them are the Q-Former’s, which both compute for every frame; the 32 tokens save in the language model alone, which is small at this size',
  },
  {
    dtype: 'bfloat16',
    goal: 'training step',
    why: 'where the processor has AMX, the peer’s products use it too. What then remains of ours is the Q-Former of all frames: panels of its weights that are turned for each gradient, LoRA, attention and norms, which AMX does not make faster; the 32 tokens save in the language model alone, which is small at this size',
  },
  {
    dtype: 'float32',
    goal: 'tokens a second',
    why: 'a token reads every weight of the language model once, at the speed of memory, on both sides',
  },
  {
    dtype: 'bfloat16',
    goal: 'tokens a second',
    why: 'a token reads every weight of the language model once, at the speed of memory, on both sides',
  },
  ...(['float32', 'bfloat16'] as const).flatMap((dtype) => [
    {
      dtype,
      goal: 'peak memory, training',
      why: 'the weights are most of it and lie in memory once on both sides, as panels here and as they are there; ours adds the activations of attention over time',
    },
    {
      dtype,
      goal: 'peak memory, asking',
      why: 'the weights are nearly all of it, and lie in memory once on both sides',
    },
  ]),
]

/** The peer as fast as it gets: compiled, where that was measured and is faster. */
function fastest(run: PeersRun, what: Quantity): ContenderName {
  const compiled = over(run, 'compiled', 'transformers', what)
  return compiled !== undefined && compiled < 1 ? 'compiled' : 'transformers'
}

interface GoalRow {
  goal: string
  target: string
  measured: number | undefined
  reached: boolean
}

/** The goals of a run, asked of the faster peer. */
export function goalsOf(run: PeersRun): GoalRow[] {
  const faster = (goal: string, target: number, what: Quantity): GoalRow => {
    const measured = over(run, fastest(run, what), 'mtransllama', what)
    return { goal, target: `≥ ${target}×`, measured, reached: (measured ?? 0) >= target }
  }
  const smaller = (goal: string, target: number, what: Quantity): GoalRow => {
    const measured = over(run, 'mtransllama', 'transformers', what)
    return { goal, target: `≤ ${target}×`, measured, reached: (measured ?? Infinity) <= target }
  }
  return [
    faster('training step', 5, STEP),
    faster('tokens a second', 1.5, TOKEN),
    smaller('peak memory, training', 0.8, TRAIN_PEAK),
    smaller('peak memory, asking', 0.8, ASK_PEAK),
  ]
}

// ---------------------------------------------------------------------------------------------------------------- page

function runSection(run: PeersRun): string[] {
  const { dtype, machine, versions, threads, clock, sizes, samples, load } = run
  const there = (Object.keys(TITLES) as ContenderName[]).filter((c) => samples.some((s) => s.contender === c))
  const rounds = new Set(samples.map((s) => s.round)).size
  const visual = (c: ContenderName): number => 32 * (c === 'mtransllama' ? 1 : sizes.frames)
  const same = samples.find((s) => s.contender === 'same')
  const peer = samples.find((s) => s.contender === 'transformers')
  const goals = goalsOf(run)
  const missed = REASONS.filter((r) => r.dtype === dtype && goals.some((g) => g.goal === r.goal && !g.reached))
  return [
    `## ${dtype}`,
    `${machine.cpu} (${machine.isa}), ${machine.cores} cores, ${gigabytes(machine.memory)} of memory; ${threads} thread${threads > 1 ? 's' : ''} on both sides; ${rounds} round${rounds > 1 ? 's' : ''}; times ${clock === 'cpu' ? 'are CPU time of the processes, since other programs ran beside them' : 'are of the wall'}. PyTorch ${versions.torch ?? 'missing'}, transformers ${versions.transformers ?? 'missing'}, PEFT ${versions.peft ?? 'missing'}; Node.js ${versions.node}. Commit ${run.commit?.slice(0, 10) ?? 'unknown'}${run.changed ? ', changed' : ''}, ${run.date.slice(0, 10)}; load average ${load.before.toFixed(1)} before and ${load.after.toFixed(1)} after.`,
    `The model: ${sizes.model}; ${(sizes.parameters / 1e6).toFixed(0)} million parameters, ${gigabytes(sizes.fileBytes)} of files.`,
    markdownTable(
      ['', 'visual tokens', ...ALL.map((q) => q.title)],
      there.map((c) => [
        TITLES[c],
        visual(c),
        ...ALL.map((q) => {
          const found = numbers(run, c, q)
          return found.length ? q.show(median(found)) : '–'
        }),
      ]),
    ),
    ...(peer
      ? [
          rounds > 1
            ? 'The peer over ours, the median of the rounds’ ratios and, in brackets, the least and the largest:'
            : 'The peer over ours:',
          markdownTable(
            ['', ...ALL.map((q) => q.title)],
            there
              .filter((c) => c === 'mtransllama' || c === 'concat' || c === 'same')
              .map((c) => [
                TITLES[c],
                ...ALL.map((q) => {
                  const [x, y] = [numbers(run, 'transformers', q), numbers(run, c, q)]
                  if (!x.length || !y.length) return '–'
                  const each = x.flatMap((a, i) => (y[i] === undefined ? [] : [a / y[i]!]))
                  return `${times(ratio(x, y))}${range(each, (r) => r.toFixed(1))}`
                }),
              ]),
          ),
          '**Where a step’s ratio comes from.** The whole is the product of three: the same computation by other kernels; attention over time and routing, which the peer has not; 32 visual tokens in the language model instead of those of all frames.',
          markdownTable(
            ['', 'whole', 'kernels', 'attention over time and routing', `32 instead of ${32 * sizes.frames} tokens`],
            [STEP, FIRST, TOKEN].map((q) => {
              const share = (a: ContenderName, b: ContenderName): string => {
                const found = over(run, a, b, q)
                return found === undefined ? '–' : times(found)
              }
              return [
                q.title,
                share('transformers', 'mtransllama'),
                share('transformers', 'same'),
                share('same', 'concat'),
                share('concat', 'mtransllama'),
              ]
            }),
          ),
          markdownTable(
            ['goal', 'target', 'measured', 'reached'],
            goals.map((g) => [
              g.goal,
              g.target,
              g.measured === undefined ? '–' : times(g.measured),
              g.reached ? 'yes' : 'no',
            ]),
          ),
          ...(missed.length ? [missed.map((r) => `- ${r.goal}: ${r.why}`).join('\n')] : []),
        ]
      : []),
    ...(same?.train && peer?.train
      ? [
          `Both compute the same where they are asked the same: the first step’s loss is ${same.train.losses[0]!.toFixed(5)} here and ${peer.train.losses[0]!.toFixed(5)} there; of the answer’s ${same.ask!.answer.length} tokens ${same.ask!.answer.filter((id, i) => id === peer.ask!.answer[i]).length} are equal.`,
        ]
      : []),
    ...run.missing.map((m) => `> ${m.name} was missing: ${m.reason}`),
  ]
}

/** The page of a result. */
export function page({ result, file }: { result: Peers; file: string }): string {
  const { frames, batch, text, prompt, answer } = result.runs[0]!.sizes
  return `${[
    '# Beside transformers and PEFT',
    `The whole model, as people have it today and by this project. Written by \`npm run docs:peers\` from [${file}](../bench/results/peers/${file}), which \`npm run bench:whole\` wrote; no figure here is typed by hand.`,
    `The peer is [instructblip.py](../bench/peers/instructblip.py): \`InstructBlipVideoForConditionalGeneration\` of transformers, which gives its language model the visual tokens of all ${frames} frames, with SDPA and PEFT’s LoRA on the queries and values of the Q-Former. Ours runs three times: as it is by default, with 32 visual tokens; the same with \`aggregate: concat\`, so with the tokens of all frames; and without attention over time and routing, which is what the peer computes. Weights are random, in the names and shapes of the hub; image features are computed once on both sides; a step is of ${batch} clips with ${text} tokens of text for the Q-Former, ${prompt} of prompt and ${answer} of answer: forward, backward, AdamW. Its median leaves out the first step of a process, in which both sides pack or reorder weights.`,
    'Every measurement is a process of its own, so that its peak (the most that was ever resident, `VmHWM`, mapped pages and the runtime included) is its alone; each round goes through all of them. Opening a checkpoint maps it here and reads it when it is used, so that “from open to the first token” is what to compare. Weights are packed here once that pays: those of 16 bits at the second product of many rows, so in the first step of a training or in a further question, any after 64 products of few rows, so in a long answer; until then a token is computed out of the mapped file.',
    ...result.runs.flatMap(runSection),
  ].join('\n\n')}\n`
}

if (import.meta.url === pathToFileURL(argv[1] ?? '').href) {
  const found = newest()
  if (!found) throw new Error('there is no result in bench/results/peers; run npm run bench:whole')
  writeFileSync(join(root, 'docs', 'peers.md'), page(found))
}
