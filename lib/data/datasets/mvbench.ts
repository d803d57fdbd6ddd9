/** MVBench (OpenGVLab), its four tasks about CLEVRER's clips, to test on. */
import { z } from 'zod'
import { leftOut, type Dataset, type Entry } from './dataset.js'

/** The tasks in the order of the paper's Table IV. */
const TASKS = ['moving_direction', 'moving_count', 'moving_attribute', 'object_existence'] as const

const schema = z.array(
  z.object({
    video: z.string(),
    question: z.string(),
    candidates: z.array(z.string()),
    answer: z.string(),
    start: z.number().optional(),
    end: z.number().optional(),
  }),
)

export const mvbench: Dataset = {
  name: 'mvbench',
  title: 'MVBench, four tasks of CLEVRER',
  clips: 'video_validation',
  metrics: ['accuracy', 'mvbench:official', 'mvbench:strict', 'mvbench:lmms-eval', 'mvbench:vlmevalkit'],
  paper: () => ({ test: { samples: 800, ...Object.fromEntries(TASKS.map((task) => [task, 200])) } }),
  async read(source) {
    const [entries, strange]: [Entry[], string[]] = [[], []]
    for (const task of TASKS) {
      const path = source.need(`${task}.json`, 'OpenGVLab/MVBench (json)')
      for (const [i, row] of (await source.json(path, schema)).entries()) {
        const name = row.video.replace(/^.*\//, '').replace(/\.\w+$/, '')
        const id = `${task}_${i}`
        const right = row.candidates.indexOf(row.answer)
        if (right < 0 || row.candidates.length < 2) {
          strange.push(id)
          continue
        }
        entries.push({
          id,
          split: 'test',
          video: name,
          ...(row.start !== undefined && { start: row.start }),
          ...(row.end !== undefined && { end: row.end }),
          group: name,
          task,
          fields: { question: row.question },
          options: { texts: row.candidates, right },
        })
      }
    }
    return { entries, notices: leftOut('whose answer is none of their candidates', strange) }
  },
}
