/** The file of an evaluation: JSON lines, appended at once, so that no prediction is lost when the process ends. */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { appendFile, open, readFile, unlink, writeFile } from 'node:fs/promises'
import { basename } from 'node:path'
import type { Adapter } from '../adapter/adapter.js'
import type { Sample } from '../data/manifest.js'
import { InputError, invalid, show } from '../errors.js'
import { parseJson } from '../files/json.js'
import { decodeText } from '../files/text.js'
import { writeFileAtomic } from '../files/atomic.js'
import type { Checkpoint } from '../session/checkpoint.js'
import type { ChooseOptions } from '../session/choose.js'
import type { Prediction, Unpredicted } from './evaluate.js'
import type { FeatureOptions } from '../session/features.js'

/**
 * A name of everything but the samples that predictions depend on: weights, adapter, precision, frames, choice of
 * tokens.
 */
export async function runName(
  checkpoint: Checkpoint,
  adapter: Adapter | undefined,
  { frames, sampling }: FeatureOptions,
  choose: ChooseOptions = {},
): Promise<string> {
  const drawn = Object.entries(choose).filter(([, value]) => value !== undefined)
  const hash = createHash('sha256').update(
    JSON.stringify([
      checkpoint.fingerprint,
      checkpoint.preprocessor,
      checkpoint.model.precision,
      ...(checkpoint.form === 'stored' ? [] : [checkpoint.form]),
      frames,
      sampling,
      adapter?.config ?? null,
      ...(drawn.length ? [drawn.sort()] : []),
    ]),
  )
  for (const [name, t] of adapter?.parameters ?? []) hash.update(name).update(new Uint8Array((await t.data()).buffer))
  return hash.digest('hex').slice(0, 16)
}

/** Identifies what a sample says; its folder may move. */
const digestOf = ({ video, ...sample }: Sample): string =>
  createHash('sha256')
    .update(JSON.stringify([basename(video), Object.entries(sample).sort()]))
    .digest('hex')
    .slice(0, 8)

/** A name of what the samples of a manifest say. */
export const samplesName = (samples: readonly Sample[]): string =>
  createHash('sha256')
    .update(JSON.stringify(samples.map(digestOf)))
    .digest('hex')
    .slice(0, 16)

export class PredictionFile {
  /** What the file holds, by id. */
  readonly #lines = new Map<string, Prediction | Unpredicted>()
  readonly #digests: ReadonlyMap<string, string>
  #fresh = true

  private constructor(
    readonly path: string,
    readonly run: string,
    readonly samples: readonly Sample[],
  ) {
    this.#digests = new Map(samples.map((s) => [s.id, digestOf(s)]))
  }

  /**
   * Opens the file for the samples of a manifest. An old one of that name is overwritten with the first line that is
   * added.
   *
   * @param options `resume` keeps its predictions; lines without a prediction, and a truncated last line, are removed
   * @throws InputError where it cannot be written, or its lines are of another run or other samples
   */
  static async open(
    path: string,
    run: string,
    samples: readonly Sample[],
    { resume = false } = {},
  ): Promise<PredictionFile> {
    const file = new PredictionFile(path, run, samples)
    const existed = existsSync(path)
    try {
      await (await open(path, 'a')).close()
      if (!existed) await unlink(path)
    } catch (error) {
      throw invalid(path, 'a file that can be written', error)
    }
    if (resume && existed) {
      await file.#take()
      await file.finish()
      file.#fresh = false
    }
    return file
  }

  /** The number of predictions. */
  get predictions(): Prediction[] {
    return this.#ordered().filter((line): line is Prediction => !('error' in line))
  }
  get unpredicted(): Unpredicted[] {
    return this.#ordered().filter((line): line is Unpredicted => 'error' in line)
  }
  /** Samples without a line. */
  get left(): Sample[] {
    return this.samples.filter((s) => !this.#lines.has(s.id))
  }

  async add(line: Prediction | Unpredicted): Promise<void> {
    this.#lines.set(line.id, line)
    try {
      await (this.#fresh ? writeFile : appendFile)(this.path, this.#text(line))
    } catch (error) {
      throw invalid(this.path, 'a file that can be written', error, 'free space on the disk; --resume continues')
    }
    this.#fresh = false
  }

  /** Sorts the lines into the order of the samples. */
  async finish(): Promise<void> {
    await writeFileAtomic(
      this.path,
      this.#ordered()
        .map((line) => this.#text(line))
        .join(''),
    )
  }

  #ordered(): (Prediction | Unpredicted)[] {
    return this.samples.flatMap((s) => this.#lines.get(s.id) ?? [])
  }

  #text(line: Prediction | Unpredicted): string {
    return `${JSON.stringify({ ...line, run: this.run, sample: this.#digests.get(line.id) })}\n`
  }

  /** Reads what an earlier process wrote. */
  async #take(): Promise<void> {
    const bytes = await readFile(this.path).catch((error: unknown) => {
      throw invalid(this.path, 'a file that can be read', error)
    })
    // What comes after the last whole line was being written when the process ended, or the machine.
    const lines = decodeText(bytes.subarray(0, bytes.lastIndexOf(10) + 1), this.path).split('\n')
    const byId = new Map(this.samples.map((s) => [s.id, s]))
    for (const [i, text] of lines.entries()) {
      if (text.trim() === '') continue
      const where = `${this.path}, line ${i + 1}`
      const value = parseJson(
        text,
        (error) => invalid(where, 'a prediction as JSON', text, error.message),
        (key) => invalid(where, 'every key once', key),
      )
      const line = (value ?? {}) as Prediction & { run?: unknown; sample?: unknown; error?: unknown }
      const { run, sample: digest, ...prediction } = line
      if (run !== this.run)
        throw new InputError(
          `${where}: this prediction is of another model, adapter, precision or choice of frames; write to another file, or leave out --resume.`,
        )
      if (line.error !== undefined) continue // it is tried again, and may have been mended
      const sample = byId.get(line.id)
      if (!sample || digest !== digestOf(sample))
        throw new InputError(
          `${where}: sample ${show(line.id)} is not in the manifest as it was; write to another file, or leave out --resume.`,
        )
      this.#lines.set(line.id, prediction)
    }
  }
}
