/** The recipes of the package: the settings of each dataset, and variants, each a small overlay over any of them. */
import { readdir } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { z } from 'zod'
import { InputError, nearest, show } from '../errors.js'
import { checkWith } from '../files/schema.js'
import { readYaml } from '../files/yaml.js'
import { parseTrainConfig, type TrainConfig } from '../train/config.js'

const KINDS = { datasets: 'dataset', variants: 'variant' } as const
/** `datasets`: all settings of one; `variants`: what one changes. */
export type RecipeKind = keyof typeof KINDS

/** Keys of a training configuration, but for the model and the folders. */
export type Settings = Readonly<Record<string, unknown>>

/** A file in `recipes/`. */
export interface Recipe {
  name: string
  /** What it is, in a few words. */
  about: string
  settings: Settings
}

const folderOf = (kind: RecipeKind): string => fileURLToPath(new URL(`../../recipes/${kind}`, import.meta.url))

/** The names of all recipes of a kind. */
export async function recipeNames(kind: RecipeKind): Promise<string[]> {
  return (await readdir(folderOf(kind))).map((file) => file.replace(/\.yaml$/, '')).sort()
}

const schema = z.looseObject({ about: z.string() })

/** Reads a recipe. @throws InputError naming the nearest where there is none of that name */
export async function readRecipe(kind: RecipeKind, name: string): Promise<Recipe> {
  const names = await recipeNames(kind)
  if (!names.includes(name)) {
    const near = nearest(name, names)
    throw new InputError(
      `recipes: there is no ${KINDS[kind]} named ${show(name)}; ${near ? `did you mean ${near}?` : `known are ${names.join(', ')}.`}`,
    )
  }
  const path = `${folderOf(kind)}/${name}.yaml`
  const { about, ...settings } = checkWith(schema, await readYaml(path), path)
  return { name, about, settings }
}

/** The settings of recipes of either kind, the last on top. @throws InputError where there is none of a name */
export async function recipeSettings(names: readonly string[]): Promise<Settings> {
  const datasets = await recipeNames('datasets')
  const all: Settings[] = []
  for (const name of names)
    all.push((await readRecipe(datasets.includes(name) ? 'datasets' : 'variants', name)).settings)
  return overlaid(...all)
}

/** Settings of a user's own file, of the same form as a recipe without `about`. */
export async function readSettings(path: string): Promise<Settings> {
  return checkWith(z.looseObject({}), await readYaml(path), path)
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** Settings laid over each other, the last on top: objects key by key, anything else as a whole. */
export function overlaid(...all: readonly Settings[]): Settings {
  const result: Record<string, unknown> = {}
  for (const settings of all)
    for (const [key, value] of Object.entries(settings)) {
      const below = result[key]
      result[key] = isObject(below) && isObject(value) ? overlaid(below, value) : value
    }
  return result
}

/** The folders of a run. */
export interface Places {
  model: string
  output: string
  train: string
  val?: string | undefined
  /** Folder of the cached features. */
  cache: string
}

/** Settings as the configuration of a run. @throws InputError that begins with `where` */
export function configOf(settings: Settings, { model, output, train, val, cache }: Places, where: string): TrainConfig {
  const files = { model, output, data: { train, cache, ...(val !== undefined && { val }) } }
  return parseTrainConfig(overlaid(val === undefined ? unvalidated(settings) : settings, files), '/', where)
}

/** Settings of a run without samples to validate, which has nothing but the loss of training to choose by. */
export function unvalidated(settings: Settings): Settings {
  const metric = (settings['train'] as Record<string, unknown> | undefined)?.['metric']
  return metric === undefined ? settings : overlaid(settings, { train: { metric: 'loss' } })
}
