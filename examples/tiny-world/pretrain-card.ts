/** The scores of a pre-trained folder, read from disk as a user reads it, and its card. */

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { readManifest } from '../../lib/data/manifest.js'
import { markdownTable } from '../../lib/report/table.js'
import { openCheckpoint } from '../../lib/session/checkpoint.js'
import { accuracy, predictSamples, type Accuracy, type Prediction } from '../../lib/eval/evaluate.js'
import { Features } from '../../lib/session/features.js'
import { groups } from './pretrain-batch.js'
import { answered } from './pretrain-steps.js'
import type { Pretraining } from './pretrain.js'
import { renderStills } from './render.js'

export interface Scores {
  /** Questions about one image, closed ones ranked. */
  one: Accuracy & { tasks: Record<string, Accuracy> }
  /** Questions about four images shown one after the other; the answer must be the likeliest of all. */
  several: Accuracy & { tasks: Record<string, Accuracy> }
  parameters: number
}

/** Held-out questions: 4 of each of `images` stills, and as many about four of them. */
export async function scores(folder: string, seed: number, images: number): Promise<Scores> {
  const temporary = await mkdtemp(join(tmpdir(), 'tiny-world-'))
  const checkpoint = await openCheckpoint(folder)
  try {
    const samples = await readManifest(await renderStills({ dir: temporary, seed, split: 'held-out', stills: images }))
    const predictions: Prediction[] = []
    const seen = new Features(checkpoint, { frames: 1, sampling: { kind: 'first' } })
    for await (const prediction of predictSamples(checkpoint, seen, samples, { batch: 64 }))
      predictions.push(prediction)
    const one = accuracy(predictions)

    const right: { task: string; correct: boolean }[] = []
    for (let i = 0; i < images / 16; i++) {
      const batch = groups(seed, `held-out groups ${i}`, { images: 16, each: 0, several: 64 }, 4, 0)
      const correct = await answered(checkpoint.model, batch)
      right.push(...correct.map((c, k) => ({ task: batch.questions[k]!.task, correct: c })))
    }
    const count = (list: typeof right): Accuracy => {
      const correct = list.filter((r) => r.correct).length
      return { correct, total: list.length, accuracy: correct / list.length }
    }
    const tasks = [...new Set(right.map((r) => r.task))].sort()
    return {
      one: { ...one.overall, tasks: one.tasks },
      several: {
        ...count(right),
        tasks: Object.fromEntries(tasks.map((t) => [t, count(right.filter((r) => r.task === t))])),
      },
      parameters: [...checkpoint.model.weights.values()].reduce((n, t) => n + t.size, 0),
    }
  } finally {
    checkpoint.model.dispose()
    await rm(temporary, { recursive: true })
  }
}

const WHAT: Record<string, string> = {
  shape: 'what shape is the red object ?',
  color: 'what color is the circle ?',
  horizontal: 'is the red object left or right ?',
  vertical: 'is the red object up or down ?',
  relative: 'where is the red object from the blue object ?',
  side: 'where is the red object ?',
  count: 'how many objects are there ?',
  'count-shape': 'how many circle objects are there ?',
  exists: 'is there a red object ?',
  'exists-shape': 'is there a red circle ?',
  describe: 'describe the red object .',
  which: 'which image has a red object ?',
  images: 'how many images have a red object ?',
}

/** README.md of the folder. */
export function card(
  { seed, speaker, vision, steps, severalShare, severalFrom, images, each, several }: Pretraining,
  result: Scores,
  seconds: number,
): string {
  const share =
    ((1 - severalFrom) * severalShare * several) /
    ((1 - severalFrom) * severalShare * several + (1 - (1 - severalFrom) * severalShare) * images * each)
  const first = vision.steps
    ? `${vision.steps} steps of ${vision.images} images for the ViT alone, then`
    : 'with the ViT and the Q-Former of the checkpoint over LLaMA at the beginning,'
  const table = ({ accuracy, total, tasks }: Scores['one'], title: string): string =>
    markdownTable(
      [title, 'for example', 'questions', 'right, %'],
      [
        ...Object.entries(tasks).map(([task, a]) => [task, example(task), a.total, (100 * a.accuracy).toFixed(1)]),
        ['**all**', '', `**${total}**`, `**${(100 * accuracy).toFixed(1)}**`],
      ],
      (column) => column > 1,
    )
  return `# A tiny InstructBLIP

An image language model of ${result.parameters.toLocaleString('en')} parameters that answers questions about coloured shapes: a ViT (3 layers), a Q-Former
with 8 queries that reads the question (4 layers) and ${speaker === 't5' ? 'a T5 (2 + 2 layers)' : 'a LLaMA (2 layers)'}, all of width 64, in bfloat16 and in the layout
of Hugging Face. It was pre-trained on still images alone, drawn by \`examples/tiny-world\`: it has never seen anything
move. The demonstration turns it into a video model.

Made by

    npx tsx examples/tiny-world/pretrain.ts --seed ${seed} --steps ${steps}${speaker === 't5' ? ' --t5 --out FOLDER' : ''}

in ${Math.round(seconds / 60)} minutes on the CPU: ${first} ${steps} steps of ${images} images for everything.
${Math.round(100 * share)} % of its prompts show two to four images, whose visual tokens follow one another. The same command and
build give the same weights on the same kind of processor.

Scores of this folder, on scenes that were not trained on. Questions about one image (closed ones ranked by their loss,
\`describe\` generated):

${table(result.one, 'task')}

About four images (the likeliest of all words must be right):

${table(result.several, 'task')}
`
}

function example(task: string): string {
  return task.startsWith('image-') ? `in the second image ${WHAT[task.slice(6)]}` : (WHAT[task] ?? '')
}
