/** METEOR 1.5, computed by its own jar (LGPL, not part of this package) over its stdio protocol. */
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process'
import { createInterface, type Interface } from 'node:readline'
import { InputError } from '../../errors.js'
import { meanScore, type Score } from './metric.js'

/** Milliseconds that one line may take; the first waits for the table of paraphrases. */
const PATIENCE = 300_000

/** The running jar: one line in, one or more lines out. */
class Meteor {
  readonly #child: ChildProcessWithoutNullStreams
  readonly #lines: AsyncIterator<string>
  readonly #reader: Interface
  #said = ''
  #failed: Error | undefined

  constructor(
    private readonly jar: string,
    java: string,
  ) {
    this.#child = spawn(java, ['-jar', '-Xmx2G', jar, '-', '-', '-stdio', '-l', 'en', '-norm'])
    this.#child.on('error', (error) => (this.#failed = error))
    this.#child.stdin.on('error', () => {}) // told by the missing line
    this.#child.stderr.setEncoding('utf8').on('data', (text: string) => (this.#said = (this.#said + text).slice(-2000)))
    this.#reader = createInterface({ input: this.#child.stdout })
    this.#lines = this.#reader[Symbol.asyncIterator]()
  }

  /** The statistics of a prediction against its references. */
  async score(references: readonly string[], prediction: string): Promise<string> {
    const clean = (text: string): string =>
      text
        .replaceAll('|||', '')
        .replaceAll('  ', ' ')
        .replace(/[\r\n]/g, ' ')
    this.#write(['SCORE', ...references.map(clean), clean(prediction)].join(' ||| '))
    return (await this.#read()).trim()
  }

  /** The score of each of some statistics, and that of all together. */
  async evaluate(statistics: readonly string[]): Promise<{ items: number[]; value: number }> {
    this.#write(['EVAL', ...statistics].join(' ||| '))
    const items: number[] = []
    for (const _ of statistics) items.push(await this.#number())
    return { items, value: await this.#number() }
  }

  close(): void {
    this.#child.stdin.end()
    this.#reader.close()
    this.#child.kill()
  }

  #write(line: string): void {
    this.#child.stdin.write(`${line}\n`)
  }

  async #number(): Promise<number> {
    const line = await this.#read()
    const value = Number(line)
    if (line.trim() === '' || !Number.isFinite(value))
      throw new InputError(`${this.jar}: expected a score, but got ${JSON.stringify(line)}; is it METEOR 1.5?`)
    return value
  }

  async #read(): Promise<string> {
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<'late'>((resolve) => (timer = setTimeout(() => resolve('late'), PATIENCE)))
    const next = await Promise.race([this.#lines.next(), late]).finally(() => clearTimeout(timer))
    if (next === 'late') throw new InputError(`${this.jar}: no answer within ${PATIENCE / 1000} s.`)
    if (next.done) {
      const why = this.#failed?.message ?? this.#said.trim().split('\n').at(-1)
      throw new InputError(
        `${this.jar}: METEOR ended before it answered${why ? `: ${why}` : ''}; it needs Java (--java) and the jar of METEOR 1.5 with its folder of data.`,
      )
    }
    return next.value
  }
}

/**
 * METEOR 1.5 of tokenised texts. `corpus` is the jar's value of all segments together, which is not their mean;
 * `videos` is the mean over groups of the value of each group's segments together, as lmms-eval computes it.
 *
 * @param predicted each prediction, `expected` its references, `groups` its video
 * @throws InputError where the jar cannot be run or answers something else
 */
export async function meteorJar(
  name: { corpus?: string; videos?: string },
  predicted: readonly string[],
  expected: readonly (readonly string[])[],
  groups: readonly string[],
  { jar, java = 'java' }: { jar: string; java?: string | undefined },
): Promise<Score[]> {
  const meteor = new Meteor(jar, java)
  try {
    const statistics: string[] = []
    for (const [i, prediction] of predicted.entries()) statistics.push(await meteor.score(expected[i]!, prediction))
    const scores: Score[] = []
    if (name.corpus !== undefined) {
      const { items, value } = await meteor.evaluate(statistics)
      scores.push({ metric: name.corpus, value, items, notes: ['of all segments together, not their mean'] })
    }
    if (name.videos !== undefined) {
      const values = new Map<string, number>()
      for (const group of new Set(groups))
        values.set(group, (await meteor.evaluate(statistics.filter((_, i) => groups[i] === group))).value)
      const sizes = new Map<string, number>()
      for (const group of groups) sizes.set(group, (sizes.get(group) ?? 0) + 1)
      const items = groups.map((group) => values.get(group)!)
      const weights = groups.map((group) => 1 / sizes.get(group)!)
      scores.push(meanScore(name.videos, items, ['mean of the videos, an item being its video'], weights))
    }
    return scores
  } finally {
    meteor.close()
  }
}
