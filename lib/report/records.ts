/** What a run leaves in its folder for its report: names and forms of files, which training and evaluation write. */
import { join } from 'node:path'
import { z } from 'zod'
import { readJsonObject } from '../files/json.js'
import { checkWith } from '../files/schema.js'

/** What the run is: configuration, versions, fingerprints. */
export const ABOUT = 'run.json'
/** The log, a line a step or a validation. */
export const LOG = 'metrics.jsonl'
/** What routers give to their masks, a line a validation. */
export const ROUTERS = 'routers.jsonl'
/** What the best adapter and the untrained model answer. */
export const EVALUATION = 'evaluation.json'
/** The page. */
export const PAGE = 'report.html'

const AboutSchema = z.looseObject({
  format: z.literal('mtransllama-run'),
  version: z.literal(1),
  /** When it was started, and resumed. */
  started: z.string(),
  resumed: z.array(z.string()),
  /** As its YAML file would say it, with all defaults and absolute paths. */
  config: z.record(z.string(), z.unknown()),
  versions: z.record(z.string(), z.string()),
  computing: z.record(z.string(), z.union([z.string(), z.number()])),
  model: z.record(z.string(), z.string()),
  samples: z.record(z.string(), z.number()),
  /** Trained numbers by group. */
  trained: z.record(z.string(), z.number()),
})
export type About = z.output<typeof AboutSchema>

/** What `run.json` of a folder says. @throws InputError where it is missing or damaged */
export async function readAbout(folder: string): Promise<About> {
  const path = join(folder, ABOUT)
  return checkWith(AboutSchema, await readJsonObject(path), path)
}
