/**
 * `mtransllama init CONFIG`: writes a configuration for a model and a data set, with every key, its meaning and the
 * values that it takes. Keys, comments and defaults are the schema's.
 */
import { existsSync } from 'node:fs'
import { dirname, isAbsolute, relative, resolve, sep } from 'node:path'
import type { Command } from 'commander'
import { stringify } from 'yaml'
import { checkAdapterConfig } from '../adapter/config.js'
import { planCheckpoint } from '../checkpoint/plan.js'
import { readManifest, type Sample } from '../data/manifest.js'
import { InputError } from '../errors.js'
import { writeFileAtomic } from '../files/atomic.js'
import { isGroup, values, type JsonSchema } from '../report/json-schema.js'
import { fromHub, located, type FromHub } from './common.js'
import { overlaid, recipeSettings, unvalidated } from '../reproduce/recipes.js'
import { parseTrainConfig, trainConfigJsonSchema } from '../train/config.js'

interface Options extends FromHub {
  model: string
  train: string
  val?: string
  output: string
  recipe?: string[]
  force?: boolean
}

export function register(program: Command): void {
  fromHub(program.command('init <config>'))
    .description('write a commented configuration for a model and a data set')
    .requiredOption('--model <dir>', 'image model: a folder in the Hugging Face layout, or OWNER/NAME of the hub')
    .requiredOption('--train <manifest>', 'manifest of the training samples')
    .option('--val <manifest>', 'manifest of the validation samples')
    .option('--output <dir>', 'folder of the run', 'run')
    .option('--recipe <names...>', 'settings of recipes, the last on top, such as: mustard without-dar')
    .option('--force', 'replace a file that is there')
    .action(async (path: string, options: Options) => {
      if (!options.force && existsSync(path))
        throw new InputError(`${path}: is there already; choose another name, or replace it (--force).`)
      const model = await located(options.model, options)
      const { text, notes } = await configurationFor(path, { ...options, model })
      await writeFileAtomic(path, text)
      console.log([`${path} is written`, ...notes].join('\n'))
    })
}

/** The text of a configuration at `path`, and what was chosen for this model and this data. */
async function configurationFor(path: string, options: Options): Promise<{ text: string; notes: string[] }> {
  const { config: model } = await planCheckpoint(options.model)
  await readManifest(options.train)
  const validation = options.val === undefined ? [] : await readManifest(options.val)
  const notes: string[] = []
  const chosen: Record<string, unknown> = {}
  if (!model.qformer.hasText) {
    chosen['fusion'] = false
    notes.push(`fusion: false, since the Q-Former of this ${model.family} checkpoint reads no text`)
  }
  const metric = validation.length ? metricFor(validation) : undefined
  if (metric) {
    chosen['train'] = { metric }
    notes.push(`train.metric: ${metric}, since most validation samples have no choices`)
  }
  // An absolute path stays one, such as that of a model of the hub in the cache.
  const written = (target: string): string =>
    isAbsolute(target)
      ? target
      : relative(dirname(resolve(path)), resolve(target))
          .split(sep)
          .join('/')
  const recipes = await recipeSettings(options.recipe ?? [])
  const value: Record<string, unknown> = {
    ...overlaid(validation.length ? recipes : unvalidated(recipes), chosen),
    model: written(options.model),
    output: written(options.output),
    data: { train: written(options.train), ...(options.val !== undefined && { val: written(options.val) }) },
  }
  const { adapter } = parseTrainConfig(value, dirname(resolve(path)), path)
  const { text } = checkAdapterConfig(adapter, model, path)
  const head = comment('Configuration of a training run. Paths are relative to this file.', '')
  const body = section(trainConfigJsonSchema() as JsonSchema, { ...value, text }, '')
  return { text: `${[...head, '', ...body].join('\n')}\n`, notes }
}

/** Answers that are generated are rarely right word by word, so that accuracy would tell no adapters apart. */
const metricFor = (samples: readonly Sample[]): string | undefined =>
  samples.filter((s) => s.choices === undefined).length > samples.length / 2 ? 'valLoss' : undefined

/** The lines of a section, values first: each key with its comment and value, commented out where it has none. */
function section(schema: JsonSchema, given: Record<string, unknown>, indent: string): string[] {
  const fields = Object.entries(schema.properties!)
  const sorted = [...fields.filter(([, inner]) => !isGroup(inner)), ...fields.filter(([, inner]) => isGroup(inner))]
  return sorted.flatMap(([key, inner]) => {
    const own = given[key]
    if (isGroup(inner)) {
      const lines = section(inner, (own ?? {}) as Record<string, unknown>, `${indent}  `)
      return ['', `${indent}${key}:`, ...lines]
    }
    const value = own ?? inner.default
    const words = `${inner.description} (${values(inner)})`.replaceAll('`', '')
    const line = value === undefined ? `# ${key}:` : `${key}: ${inlineYaml(value)}`
    return [...comment(words, indent), `${indent}${line}`]
  })
}

const inlineYaml = (value: unknown): string => stringify(value, { collectionStyle: 'flow', lineWidth: 0 }).trimEnd()

/** A text as comment lines of at most 100 columns. */
function comment(text: string, indent: string): string[] {
  const lines: string[] = []
  for (const word of text.split(' ')) {
    const last = lines.at(-1)
    if (last === undefined || last.length + word.length + 1 > 100) lines.push(`${indent}# ${word}`)
    else lines[lines.length - 1] = `${last} ${word}`
  }
  return lines
}
