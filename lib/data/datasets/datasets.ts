/** The datasets of the paper, by name. */
import { readFile } from 'node:fs/promises'
import { z } from 'zod'
import { invalid, InputError, nearest, show } from '../../errors.js'
import { checkWith } from '../../files/schema.js'
import { readYaml } from '../../files/yaml.js'
import { clevrerMc } from './clevrer-mc.js'
import type { Dataset, PromptSet } from './dataset.js'
import { mustard, mustardStar } from './mustard.js'
import { mvbench } from './mvbench.js'
import { qaego4d } from './qaego4d.js'
import { urFunny } from './ur-funny.js'
import { youcook2 } from './youcook2.js'

/** Every dataset that `prepare` reads. A new one is a file in this folder, a file of prompts, and its place here. */
export const DATASETS: readonly Dataset[] = [mustard, mustardStar, urFunny, clevrerMc, mvbench, qaego4d, youcook2]

/** The dataset of a name. @throws InputError naming the nearest */
export function datasetNamed(name: string): Dataset {
  const found = DATASETS.find((d) => d.name === name)
  if (found) return found
  const names = DATASETS.map((d) => d.name)
  const near = nearest(name, names)
  throw new InputError(
    `prepare: there is no dataset named ${show(name)}; ${near ? `did you mean ${near}?` : `known are ${names.join(', ')}.`}`,
  )
}

const promptSets = z.record(
  z.string(),
  z.strictObject({
    about: z.string(),
    qformerText: z.string().optional(),
    prompt: z.string(),
    answers: z.record(z.string(), z.string()).optional(),
    option: z.string().optional(),
    optionAnswer: z.string().optional(),
  }),
)

/** A dataset's sets of prompts by name: its own file, or one of the same form that a user gives (JSON or YAML). */
export async function promptsOf({ name }: Dataset, replaced?: string): Promise<Record<string, PromptSet>> {
  if (replaced !== undefined) {
    const sets = checkWith(promptSets, await readYaml(replaced), replaced)
    if (!Object.keys(sets).length) throw invalid(replaced, 'at least one set of prompts', sets)
    return sets as Record<string, PromptSet>
  }
  const own = new URL(`prompts/${name.replace(/-star$/, '')}.json`, import.meta.url)
  return promptSets.parse(JSON.parse(await readFile(own, 'utf8'))) as Record<string, PromptSet>
}
