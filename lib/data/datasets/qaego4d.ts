/** QaEgo4D (lbaermann/qaego4d): open questions about what the wearer of a camera saw; Close: with wrong answers. */
import { z } from 'zod'
import { randomStream } from '../../random.js'
import { leftOut, limitTrain, type Dataset, type Entry } from './dataset.js'

const row = z.object({
  video_id: z.string(),
  sample_id: z.string(),
  question: z.string(),
  answer: z.string(),
  moment_start_frame: z.number(),
  moment_end_frame: z.number(),
  wrong_answers: z.array(z.string()).optional(),
})

/** Seeds over which GroundVQA reports QaEgo4D-Close. */
export const CLOSE_SEEDS = [0, 1111, 2222, 3333, 4444] as const

/** The repository's converter takes newlines and commas out of questions and answers. */
const cleaned = (text: string): string => text.replace(/[\n,]/g, '').trim()

export const qaego4d: Dataset = {
  name: 'qaego4d',
  title: 'QaEgo4D',
  splittings: {
    open: 'open questions',
    close: `the test as multiple choice, options shuffled by --seed; GroundVQA reports seeds ${CLOSE_SEEDS.join(', ')}`,
  },
  prompts: ({ splitting }) => (splitting === 'close' ? 'close' : 'paper'),
  metrics: ['exact', 'rougeL:google', 'meteor:nltk3.7'],
  paper: ({ splitting, trainLimit }) =>
    splitting === 'close'
      ? {}
      : {
          ...(!trainLimit && { train: { samples: 10746, videos: 997 } }),
          val: { samples: 1913, videos: 162 },
          test: { samples: 1854, videos: 166 },
        },
  async read(source, { splitting, seed, trainLimit }) {
    const [entries, strange]: [Entry[], string[]] = [[], []]
    if (splitting === 'close') {
      const path = source.need('annotations.QaEgo4D_test_close.json', "GroundVQA's data")
      for (const [i, { wrong_answers: wrong, ...rest }] of (await source.json(path, z.array(row))).entries()) {
        const entry = entryOf(rest, 'test')
        const right = rest.answer.trim()
        const texts = [right, ...(wrong ?? []).map((text) => text.trim())]
        if (texts.length < 2 || new Set(texts).size < texts.length) {
          strange.push(entry.id)
          continue
        }
        const random = randomStream(seed, i)
        for (let k = texts.length - 1; k > 0; k--) {
          const j = Math.floor(random() * (k + 1))
          ;[texts[k], texts[j]] = [texts[j]!, texts[k]!]
        }
        entries.push({ ...entry, options: { texts, right: texts.indexOf(right) } })
      }
      return { entries, notices: leftOut('without wrong answers that differ', strange) }
    }
    for (const split of ['train', 'val', 'test'] as const) {
      const path = source.need(`annotations.${split}.json`, "lbaermann/qaego4d's create_pure_videoqa_json.py")
      for (const given of await source.json(path, z.array(row))) {
        const entry = entryOf(given, split)
        if (entry.answer === '') strange.push(entry.id)
        else entries.push(entry)
      }
    }
    return {
      entries: limitTrain(entries, trainLimit),
      notices: [
        ...leftOut('with an empty answer', strange),
        'answers are those of the annotations, without commas; the raw answers.json that the official script also takes may hold some',
      ],
    }
  },
}

function entryOf({ video_id, sample_id, question, answer }: z.output<typeof row>, split: Entry['split']): Entry {
  return {
    id: sample_id,
    split,
    video: video_id,
    group: video_id,
    fields: { question: cleaned(question) },
    answer: cleaned(answer),
  }
}
