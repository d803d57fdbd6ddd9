// npm run docs:models: writes the table of models into README.md, from docs/models.json, from the shapes that the
// builders ask for, and from what npm run bench:models measured. A test holds the committed table against it.
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { argv } from 'node:process'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { configOf, models } from '../../bench/models/list.js'
import { Models } from '../../bench/models/record.js'
import { parseModelConfig } from '../../lib/checkpoint/config.js'
import { expectedTensors } from '../../lib/checkpoint/names.js'
import { familyOf } from '../../lib/models/language.js'
import { markdownTable } from '../../lib/report/table.js'
import { type Held, weightsPolicy, type WeightsChoice } from '../../lib/session/budget.js'
import { sizeOf } from '../../lib/shape.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const README = join(root, 'README.md')
const [BEGIN, END] = ['<!-- models: npm run docs:models -->\n', '<!-- /models -->']

/** What the newest measurement says of each model that was asked. */
function tried(): Map<string, string> {
  const folder = join(root, 'bench', 'results', 'models')
  const results = existsSync(folder)
    ? readdirSync(folder).map((f) => Models.parse(JSON.parse(readFileSync(join(folder, f), 'utf8'))))
    : []
  const newest = results.sort((a, b) => (a.date < b.date ? -1 : 1)).at(-1)
  return new Map(
    newest?.models.flatMap(({ model, asked }): [string, string][] =>
      asked
        ? [[model, `opened and asked, with zeros: ${asked.weights}, at most ${(asked.peakBytes / 1e9).toFixed(1)} GB`]]
        : [],
    ),
  )
}

/** The table as Markdown. */
export function table(): string {
  const { measured, others, models: all } = models()
  const asked = tried()
  const formats = ['float32', 'bfloat16', 'int8', 'nf4'] as const
  const rows = all.map((model) => {
    const { name } = model
    const config = parseModelConfig(configOf(model))
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
      measured[name] ?? asked.get(name) ?? others,
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
