// npm run docs:models: writes the table of models into README.md, from docs/models.json and from the shapes that the
// builders ask for. A test holds the committed table against it.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { argv } from 'node:process'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { z } from 'zod'
import { parseModelConfig } from '../../lib/checkpoint/config.js'
import { expectedTensors } from '../../lib/checkpoint/names.js'
import { familyOf } from '../../lib/models/language.js'
import { markdownTable } from '../../lib/report/table.js'
import { type Held, weightsPolicy, type WeightsChoice } from '../../lib/session/budget.js'
import { sizeOf } from '../../lib/shape.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const README = join(root, 'README.md')
const [BEGIN, END] = ['<!-- models: npm run docs:models -->\n', '<!-- /models -->']

const Models = z.strictObject({
  measured: z.record(z.string(), z.string()).describe('by name: what was measured, and where it is told'),
  others: z.string().describe('what is true of the others'),
  models: z.array(
    z.strictObject({
      name: z.string(),
      model_type: z.string(),
      text_config: z.looseObject({ model_type: z.string() }),
    }),
  ),
})

/** The table as Markdown. */
export function table(): string {
  const { measured, others, models } = Models.parse(JSON.parse(readFileSync(join(root, 'docs', 'models.json'), 'utf8')))
  const formats = ['float32', 'bfloat16', 'int8', 'nf4'] as const
  const rows = models.map(({ name, model_type, text_config }) => {
    const t5 = text_config.model_type === 't5' && { feed_forward_proj: 'gated-gelu', tie_word_embeddings: false }
    const config = parseModelConfig({
      ...{ model_type, qformer_config: { vocab_size: 30523 } },
      text_config: { ...t5, ...text_config },
    })
    const tensors = expectedTensors(config).filter((t) => !t.optional)
    const bytes = (format: (typeof formats)[number]): string => {
      const dtype = format === 'float32' ? 'F32' : 'BF16'
      const entries = tensors.map((t): Held => ({ name: t.name, shape: t.shape, dtype, kind: 'stored' }))
      const weights: WeightsChoice = format === 'int8' || format === 'nf4' ? format : 'stored'
      const { bytesOf } = weightsPolicy({ entries, device: 'cpu', weights, memory: 2 ** 50 })
      return (entries.reduce((n, t) => n + bytesOf(t), 0) / 1e9).toFixed(1)
    }
    return [
      name,
      familyOf(config.language).title,
      `${(tensors.reduce((n, t) => n + sizeOf(t.shape), 0) / 1e9).toFixed(1)} billion`,
      ...formats.map(bytes),
      measured[name] ?? others,
    ]
  })
  const head = ['model', 'language model', 'parameters', ...formats.map((f) => `${f}, GB`), 'here']
  return markdownTable(head, rows, (column) => column > 1 && column < 7)
}

/** README.md with the table. */
export function withTable(readme: string): string {
  const [begin, end] = [readme.indexOf(BEGIN), readme.indexOf(END)]
  if (begin < 0 || end < begin) throw new Error(`README.md: expected ${BEGIN.trim()} and ${END} behind it`)
  return `${readme.slice(0, begin)}${BEGIN}\n${table()}\n\n${readme.slice(end)}`
}

if (import.meta.url === pathToFileURL(argv[1] ?? '').href)
  writeFileSync(README, withTable(readFileSync(README, 'utf8')))
