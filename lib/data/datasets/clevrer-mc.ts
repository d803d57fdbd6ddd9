/** CLEVRER as multiple choice, in the form of VideoChat2-IT (OpenGVLab), to train on. */
import { z } from 'zod'
import { option, letterOf, question } from './choices.js'
import { leftOut, limitTrain, type Dataset, type Entry } from './dataset.js'

const schema = z.array(
  z.object({
    video: z.string(),
    start: z.number().optional(),
    end: z.number().optional(),
    QA: z.array(z.object({ i: z.string(), q: z.string(), a: z.string() })),
  }),
)

/** Without the differences that the two copies of an option may have. */
const bare = (text: string): string => text.toLowerCase().replace(/\.$/, '')

export const clevrerMc: Dataset = {
  name: 'clevrer-mc',
  title: 'CLEVRER-MC (VideoChat2-IT)',
  metrics: ['accuracy'],
  paper: ({ trainLimit }) => (trainLimit ? {} : { train: { samples: 149660, videos: 10000 } }),
  async read(source, { trainLimit }) {
    const path = source.need('train.json', 'OpenGVLab/VideoChat2-IT (video/reasoning/clevrer_mc)', 'clevrer_mc')
    const [entries, strange]: [Entry[], string[]] = [[], []]
    const asked = new Map<string, number>()
    for (const { video, start, end, QA } of await source.json(path, schema)) {
      const name = video.replace(/^.*\//, '').replace(/\.\w+$/, '')
      for (const { i: instruction, q, a } of QA) {
        const place = asked.get(name) ?? 0
        asked.set(name, place + 1)
        const id = `${name}_${place}`
        const { question: text, texts } = question(q)
        const answer = option(a)
        const right = texts.findIndex((t, k) => answer?.letter === letterOf(k) && bare(answer.text) === bare(t))
        if (right < 0 || texts.length < 2) {
          strange.push(id)
          continue
        }
        entries.push({
          id,
          split: 'train',
          video: name,
          ...(start !== undefined && { start }),
          ...(end !== undefined && { end }),
          group: name,
          fields: { instruction, question: text },
          options: { texts, right },
        })
      }
    }
    return {
      entries: limitTrain(entries, trainLimit),
      notices: leftOut('whose answer is none of their options', strange),
    }
  },
}
