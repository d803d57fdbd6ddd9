/** YouCook2: one sentence for each step of a recipe; the official validation is what the paper tests on. */
import { z } from 'zod'
import { leftOut, limitTrain, otherForm, type Dataset, type Entry } from './dataset.js'

const FILE = 'youcookii_annotations_trainval.json'

const schema = z.object({
  database: z.record(
    z.string(),
    z.object({
      duration: z.number(),
      subset: z.string(),
      recipe_type: z.union([z.string(), z.number()]),
      annotations: z.array(
        z.object({ id: z.number(), segment: z.tuple([z.number(), z.number()]), sentence: z.string() }),
      ),
    }),
  ),
})

export const youcook2: Dataset = {
  name: 'youcook2',
  title: 'YouCook2',
  metrics: ['rougeL:coco', 'meteor:1.5', 'meteor:1.5/mean-of-videos'],
  paper: ({ trainLimit }) => ({
    ...(!trainLimit && { train: { samples: 10337, videos: 1333 } }),
    test: { samples: 3492, videos: 457 },
  }),
  async read(source, { trainLimit }) {
    const path = source.need(FILE, 'youcook2.eecs.umich.edu')
    const [entries, strange]: [Entry[], string[]] = [[], []]
    for (const [video, { subset, annotations }] of Object.entries((await source.json(path, schema)).database)) {
      const split = { training: 'train', validation: 'test' }[subset] as Entry['split'] | undefined
      if (!split) throw otherForm(`${path}: ${video}: subset`, 'training or validation', subset)
      for (const { id, segment, sentence } of annotations) {
        const [start, end] = segment
        if (!(end > start) || sentence.trim() === '') {
          strange.push(`${video}_${id}`)
          continue
        }
        entries.push({
          id: `${video}_${id}`,
          split,
          video,
          start,
          end,
          group: video,
          fields: { seconds: `${Math.max(1, Math.round(end - start))}` },
          answer: sentence.trim(),
        })
      }
    }
    return {
      entries: limitTrain(entries, trainLimit),
      notices: [
        ...leftOut('with an empty segment or sentence', strange),
        'the official validation is the split test, as in the paper; captions of the official test are not public',
      ],
    }
  },
}
