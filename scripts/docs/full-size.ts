// npm run docs:full-size: writes docs/full-size.md from the newest result in bench/results/full-size, not by hand. A
// test holds the committed page against the committed result.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { argv } from 'node:process'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { FullSize } from '../../bench/full-size/record.js'
import { median } from '../../bench/harness.js'
import { markdownTable } from '../../lib/report/table.js'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** The newest committed result, and its file's name. */
export function newest(): { result: FullSize; file: string } | undefined {
  const folder = join(root, 'bench', 'results', 'full-size')
  return readdirSync(folder)
    .filter((f) => f.endsWith('.json'))
    .map((file) => ({ file, result: FullSize.parse(JSON.parse(readFileSync(join(folder, file), 'utf8'))) }))
    .sort((a, b) => (a.result.date < b.result.date ? -1 : 1))
    .at(-1)
}

const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(1)} GB`
const seconds = (s: number): string => `${s.toFixed(s < 10 ? 1 : 0)} s`
const percent = (x: number): string => `${(100 * x).toFixed(0)} %`
const apart = (x: number): string => `${x < 0 ? '−' : '+'}${Math.abs(100 * x).toFixed(1)} %`

type Run = FullSize['runs'][number]
/** Of a run the part for one task, where that was measured. */
const asked = (runs: readonly Run[]) => runs.flatMap((r) => (r.ask ? [{ ...r, ...r.ask }] : []))
const trained = (runs: readonly Run[]) => runs.flatMap((r) => (r.train ? [{ ...r, ...r.train }] : []))

/** Whether quantised weights were not made in this run. */
const kept = ({ form, notes }: { form: string; notes: readonly string[] }): boolean =>
  (form === 'int8' || form === 'nf4') && !notes.some((note) => note.includes('were quantised'))

/** The page of a result. */
export function page({ result, file }: { result: FullSize; file: string }): string {
  const { machine, runs, threads } = result
  const [ask, train] = [asked(runs), trained(runs)]
  const named = (r: Pick<(typeof ask)[number], 'stored' | 'weights' | 'precision'>): string[] => [
    r.stored,
    r.weights,
    r.precision,
  ]
  const head = ['files', '`--weights`', 'computes in']
  const others = (r: { load?: number | undefined }): string => r.load?.toFixed(1) ?? 'not noted'
  return `${[
    '# Full size',
    `InstructBLIP-Vicuna-7B, 7.9 billion parameters, opened, asked and trained on a machine without a GPU. Written by \`npm run docs:full-size\` from [${file}](../bench/results/full-size/${file}), which \`npm run bench:full-size\` wrote; no figure here is typed by hand. The checkpoint has the names, shapes, configuration and token ids of the hub's, and random values.`,
    `Machine: ${machine.cpu}, ${machine.cores} cores, ${gigabytes(machine.memory)} of memory, ${machine.isa}; ${threads} threads. Commit ${result.commit?.slice(0, 10) ?? 'unknown'}${result.changed ? ', changed' : ''}, ${result.date.slice(0, 10)}. Where the load average is above the number of threads, other programs ran beside it and times are longer than they need be; memory is not affected.`,
    '## Memory',
    'Peak: the most that was resident in the process, mapped pages counted (`VmHWM`). Planned: what `mtransllama plan` says before anything is loaded.',
    markdownTable(
      ['', ...head, 'file bytes', 'peak', 'planned', 'commit, instructions'],
      [...ask.map((r) => ['ask', r] as const), ...train.map((r) => ['train', r] as const)].map(([task, r]) => [
        task,
        ...named(r),
        gigabytes(r.fileBytes),
        gigabytes(r.peakBytes),
        `${gigabytes(r.plannedBytes)} (${apart(r.plannedBytes / r.peakBytes - 1)})`,
        `${(r.commit ?? result.commit)?.slice(0, 10) ?? 'unknown'}, ${r.isa ?? machine.isa}`,
      ]),
    ),
    ...(ask[0]
      ? [
          '## A question',
          `4 frames, ${ask[0].promptTokens} tokens with the visual ones, ${ask[0].tokens} tokens of answer. Opening reads the files, at the speed given; kept: quantised weights were found in the cache of an earlier opening. Features are the image tower's; the first token is the Q-Former and the prompt. The bandwidth of a token is the bytes of the weights that it reads over its time, beside plain reads of memory that were measured in turn with the tokens, each the best of eight: medians.`,
          markdownTable(
            [...head, 'open', 'features', 'first token', 'a token', 'bandwidth', 'of a plain read', 'load average'],
            ask.map((r) => {
              const token = median(r.tokenSeconds)
              const reads = r.tokenReads ?? r.tokenSeconds.map(() => r.rates.read)
              const shares = r.tokenSeconds.map((s, i) => r.weightBytes / s / reads[i]!)
              return [
                ...named(r),
                `${seconds(r.loadSeconds)} (${kept(r) ? 'kept' : `${(r.loadBytes / r.loadSeconds / 1e9).toFixed(2)} GB/s`})`,
                seconds(r.featureSeconds),
                seconds(r.firstTokenSeconds),
                `${token.toFixed(2)} s`,
                `${(r.weightBytes / token / 1e9).toFixed(1)} GB/s`,
                `${percent(median(shares))} of ${(median(reads) / 1e9).toFixed(1)} GB/s`,
                others(r),
              ]
            }),
          ),
        ]
      : []),
    ...(train[0]
      ? [
          '## Training',
          `Batches of ${train[0].batch} clips of ${train[0].frames} frames, ${train[0].sequence} tokens a row of the language model; features are computed once per clip, before the first step. The share is the operations that the formulas count ([bench/cost.ts](../bench/cost.ts)) over the rate of multiply-adds of that precision, measured in the same run by the same instructions; \`MT_CPU=avx512\` leaves AMX out. That of AMX is reached by tiles that stay in registers, far from what memory can feed.`,
          markdownTable(
            [
              ...head,
              'instructions',
              'open',
              'features of a clip',
              'steps',
              'share of the product rate',
              'losses',
              'tensors with a gradient',
              'load average',
            ],
            train.map((r) => [
              ...named(r),
              r.isa ?? machine.isa,
              seconds(r.loadSeconds),
              seconds(median(r.featureSeconds)),
              r.stepSeconds.map(seconds).join(', '),
              `${percent(r.stepFlops / median(r.stepSeconds) / r.rates.product)} of ${(r.rates.product / 1e9).toFixed(0)} GFLOP/s`,
              r.losses.map((l) => l.toFixed(3)).join(', '),
              `${r.reached} of ${r.tensors}`,
              others(r),
            ]),
          ),
        ]
      : []),
    ...[...new Set([...ask, ...train].flatMap((r) => r.notes).filter((note) => !note.includes('were quantised')))].map(
      (note) => `> ${note}`,
    ),
  ].join('\n\n')}\n`
}

if (import.meta.url === pathToFileURL(argv[1] ?? '').href) {
  const found = newest()
  if (!found) throw new Error('there is no result in bench/results/full-size; run npm run bench:full-size')
  writeFileSync(join(root, 'docs', 'full-size.md'), page(found))
}
