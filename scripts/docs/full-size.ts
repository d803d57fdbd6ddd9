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

/** The page of a result. */
export function page({ result, file }: { result: FullSize; file: string }): string {
  const { machine, runs, threads } = result
  const named = (r: FullSize['runs'][number]): string[] => [r.stored, r.weights, r.ask.form, r.ask.precision]
  const head = ['files', '`--weights`', 'held', 'computes in']
  const token = (r: FullSize['runs'][number]): number => median(r.ask.tokenSeconds)
  const step = (r: FullSize['runs'][number]): number => median(r.train.stepSeconds)
  return `${[
    '# Full size',
    `InstructBLIP-Vicuna-7B, 7.9 billion parameters, opened, asked and trained on a machine without a GPU. Written by \`npm run docs:full-size\` from [${file}](../bench/results/full-size/${file}), which \`npm run bench:full-size\` wrote; no figure here is typed by hand. The checkpoint has the names, shapes, configuration and token ids of the hub's, and random values.`,
    `Machine: ${machine.cpu}, ${machine.cores} cores, ${gigabytes(machine.memory)} of memory, ${machine.isa}; ${threads} threads. Commit ${result.commit?.slice(0, 10) ?? 'unknown'}${result.changed ? ', changed' : ''}, ${result.date.slice(0, 10)}.`,
    '## Memory',
    'Peak: the most that was resident in the process, mapped pages counted (`VmHWM`). Planned: what `mtransllama plan` says before anything is loaded.',
    markdownTable(
      [...head, 'file bytes', 'peak of `ask`', 'planned', 'peak of `train`', 'planned'],
      runs.map((r) => [
        ...named(r),
        gigabytes(r.fileBytes),
        gigabytes(r.ask.peakBytes),
        `${gigabytes(r.ask.plannedBytes)} (${apart(r.ask.plannedBytes / r.ask.peakBytes - 1)})`,
        gigabytes(r.train.peakBytes),
        `${gigabytes(r.train.plannedBytes)} (${apart(r.train.plannedBytes / r.train.peakBytes - 1)})`,
      ]),
    ),
    '## A question',
    `4 frames, ${runs[0]!.ask.promptTokens} tokens with the visual ones, ${runs[0]!.ask.tokens} tokens of answer. Opening reads the files, at the speed given. Features are the image tower's; the first token is the Q-Former and the prompt. The bandwidth of a token is the bytes of the weights that it reads over its time, beside a plain read of memory that was measured in the same run.`,
    markdownTable(
      [...head, 'open', 'features', 'first token', 'a token', 'tokens/s', 'bandwidth', 'of a plain read'],
      runs.map((r) => [
        ...named(r),
        `${seconds(r.ask.loadSeconds)} (${(r.ask.loadBytes / r.ask.loadSeconds / 1e9).toFixed(2)} GB/s)`,
        seconds(r.ask.featureSeconds),
        seconds(r.ask.firstTokenSeconds),
        seconds(token(r)),
        (1 / token(r)).toFixed(2),
        `${(r.ask.weightBytes / token(r) / 1e9).toFixed(1)} GB/s`,
        `${percent(r.ask.weightBytes / token(r) / r.ask.rates.read)} of ${(r.ask.rates.read / 1e9).toFixed(1)} GB/s`,
      ]),
    ),
    '## Training',
    `Batches of ${runs[0]!.train.batch} clips of ${runs[0]!.train.frames} frames, ${runs[0]!.train.sequence} tokens a row of the language model; features are computed once per clip, before the first step. The share is the operations that the formulas count ([bench/cost.ts](../bench/cost.ts)) over the rate of multiply-adds of that precision, measured in the same run.`,
    markdownTable(
      [
        ...head,
        'open',
        'features of a clip',
        'steps',
        'share of the product rate',
        'losses',
        'tensors with a gradient',
      ],
      runs.map((r) => [
        ...named(r),
        seconds(r.train.loadSeconds),
        seconds(median(r.train.featureSeconds)),
        r.train.stepSeconds.map(seconds).join(', '),
        `${percent(r.train.stepFlops / step(r) / r.train.rates.product)} of ${(r.train.rates.product / 1e9).toFixed(0)} GFLOP/s`,
        r.train.losses.map((l) => l.toFixed(3)).join(', '),
        `${r.train.reached} of ${r.train.tensors}`,
      ]),
    ),
    ...[...new Set(runs.flatMap((r) => r.ask.notes))].map((note) => `> ${note}`),
  ].join('\n\n')}\n`
}

if (import.meta.url === pathToFileURL(argv[1] ?? '').href) {
  const found = newest()
  if (!found) throw new Error('there is no result in bench/results/full-size; run npm run bench:full-size')
  writeFileSync(join(root, 'docs', 'full-size.md'), page(found))
}
