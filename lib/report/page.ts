/** `report.html`: what a run's folder holds as one file, which asks no network for anything. */
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { InputError } from '../errors.js'
import { writeFileAtomic } from '../files/atomic.js'
import { PAGE } from './records.js'
import { readRun, type RunRecord } from './run.js'

/** Most runs that one is compared with: there are no more colours that differ on both grounds. */
const COMPARED = 5

/** What a report is written of, and where. */
export interface ReportOptions {
  /** Folders of runs to compare with. */
  compare?: readonly string[] | undefined
  /** The file. Default: `report.html` in the run's folder. */
  output?: string | undefined
}

/**
 * Writes the report of a run. Returns its path, and sentences about what is missing in the folders.
 *
 * @throws InputError where a folder is not that of a run, or the file cannot be written
 */
export async function writeReport(
  folder: string,
  { compare = [], output = join(folder, PAGE) }: ReportOptions = {},
): Promise<{ path: string; gaps: string[] }> {
  if (compare.length > COMPARED)
    throw new InputError(`--compare: expected at most ${COMPARED} runs, but got ${compare.length}; compare fewer.`)
  const runs: RunRecord[] = []
  for (const each of [folder, ...compare]) runs.push(await readRun(each))
  await writeFileAtomic(output, await reportPage(runs))
  return {
    path: output,
    gaps: runs.flatMap((run) => run.gaps.map((gap) => (compare.length ? `${run.name}: ${gap}` : gap))),
  }
}

/** The page about runs; the first is the one that it is about. */
export async function reportPage(runs: readonly RunRecord[]): Promise<string> {
  const charts = dirname(createRequire(import.meta.url).resolve('uplot'))
  const own = (name: string): URL => new URL(`./page/${name}`, import.meta.url)
  const read = (file: string | URL): Promise<string> => readFile(file, 'utf8')
  const [page, ...parts] = await Promise.all([
    read(own('report.html')),
    read(join(charts, 'uPlot.min.css')),
    read(own('base.css')),
    read(own('report.css')),
    read(join(charts, 'uPlot.iife.min.js')),
    ...['parts.mjs', 'pieces.mjs', 'training.mjs', 'answers.mjs', 'report.mjs'].map((name) => read(own(name))),
  ])
  const style = parts.slice(0, 3).join('\n')
  const [library, ...modules] = parts.slice(3) as [string, ...string[]]
  // The modules become one script: what they import of each other is there already.
  const program = modules
    .map((code) => code.replace(/^import [^']*'[^']*'$/gm, '').replace(/^export /gm, ''))
    .join('\n')
  const fill: Record<string, string> = {
    // Nothing but these very texts runs or is applied, and nothing is fetched, whatever the data says.
    policy: `default-src 'none'; img-src data:; style-src ${hash(style)}; script-src ${hash(library)} ${hash(program)}`,
    style,
    library,
    program,
    data: JSON.stringify({ runs }).replaceAll('<', String.raw`\u003c`),
  }
  return page.replace(/\{\{(\w+)\}\}/g, (_, name: string) => fill[name]!)
}

const hash = (text: string): string => `'sha256-${createHash('sha256').update(text).digest('base64')}'`
