/**
 * Models by their names on the Hugging Face hub, in the cache of huggingface_hub, which Python's programs share:
 *
 *     CACHE/models--OWNER--NAME/  blobs/CHECKSUM  refs/REVISION  snapshots/COMMIT/FILE -> ../../blobs/CHECKSUM
 *
 * The cache's folder, the token, the endpoint and offline mode come from the environment variables that Python's
 * package knows: HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE.
 */
import { existsSync } from 'node:fs'
import * as fs from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'
import { InputError, invalid, show } from '../errors.js'
import { writeFileAtomic } from './atomic.js'
import { download, HttpError, reasonOf, type DownloadOptions, type Remote } from './download.js'
import { lock } from './lock.js'

/** Loaded where a model is looked for on the hub, so that folders open without it, and sooner. */
const client = (): Promise<typeof import('@huggingface/hub')> => import('@huggingface/hub')

/** Where a model is looked for, and how. */
export interface HubOptions extends Omit<DownloadOptions, 'onBytes'> {
  /** A branch, a tag or a commit. Default: main. */
  revision?: string | undefined
  /** Only the cache is looked at. Default: whether HF_HUB_OFFLINE is set. */
  offline?: boolean | undefined
  /** The folder of the cache. Default: HF_HUB_CACHE, else `hub` in HF_HOME, else in `~/.cache/huggingface`. */
  cache?: string | undefined
  /** Default: HF_ENDPOINT, else the public hub. */
  endpoint?: string | undefined
  /** Default: HF_TOKEN. */
  token?: string | undefined
  /** Called as bytes arrive: bytes so far, and in all. */
  onProgress?: ((bytes: number, total: number) => void) | undefined
}

/** A model's folder. */
export interface Found {
  folder: string
  /** The commit of a model of the hub. */
  commit?: string
  /** Why the cache was used where the hub could not be asked. */
  note?: string
}

const NAME = /^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/
const REVISION = /^[A-Za-z0-9][\w./-]*$/
const COMMIT = /^[0-9a-f]{40}$/
/** Files of a model folder that are read: at its top and in `qformer_tokenizer/`. */
const BESIDE = /^(qformer_tokenizer\/)?[\w.-]+\.(json|txt|model|jinja)$/
const WEIGHTS = [/^model(-\d+-of-\d+)?\.safetensors$/, /^pytorch_model(-\d+-of-\d+)?\.bin$/]

/** Whether a text has the form of a name on the hub, OWNER/NAME. */
export const isHubName = (text: string): boolean =>
  NAME.test(text) && text.length <= 96 && !/\.\.|--|\.(git|json|ya?ml|pth|bin|safetensors)$/.test(text)

/** The folder of that name, else the model of that name on the hub, loaded where the cache lacks it. */
export async function findModel(nameOrFolder: string, options: HubOptions = {}): Promise<Found> {
  if (existsSync(nameOrFolder)) {
    if (options.revision !== undefined)
      throw invalid('revision', 'none for a folder', options.revision, `${nameOrFolder} is a folder`)
    return { folder: nameOrFolder }
  }
  // What cannot be a name is a path, and whoever reads it says what is wrong with that.
  if (!isHubName(nameOrFolder)) return { folder: nameOrFolder }
  return findOnHub(nameOrFolder, options)
}

/**
 * A model of the hub in the cache: what is missing there is loaded. Safetensors are preferred to torch's files.
 *
 * @param name OWNER/NAME
 * @throws InputError for a name, a revision or a file name that is not plain, a model that is not there or needs a
 *   token, a connection that breaks for good, and bytes without their checksum; what was loaded stays to be continued
 */
export async function findOnHub(name: string, options: HubOptions = {}): Promise<Found> {
  const { getHFHubCachePath, getRepoFolderName, HUB_URL } = await client()
  const { revision = 'main', offline = offlineByEnvironment(), cache = getHFHubCachePath() } = options
  if (!isHubName(name)) throw invalid('model', 'a name of the hub, OWNER/NAME', name)
  if (!REVISION.test(revision) || revision.includes('..') || revision.endsWith('/'))
    throw invalid('revision', 'a branch, a tag or a commit', revision)
  const home = join(cache, getRepoFolderName({ name, type: 'model' }))
  if (offline) {
    const found = await cached(home, revision)
    if (!found)
      throw new InputError(
        `${name}: there is no such folder, the model is not in ${cache} (revision ${revision}), and offline mode is on.`,
      )
    return found
  }
  const hub = access(options, HUB_URL)
  let commit: string
  let files: Remote[]
  try {
    commit = await commitOf(name, revision, hub)
    files = await filesOf(name, commit, hub)
  } catch (error) {
    const found = isUnreachable(error) ? await cached(home, revision) : undefined
    if (!found) throw sentence(name, revision, hub, error)
    return { ...found, note: `${hub.hubUrl} cannot be reached (${reasonOf(error)}); ${name} is taken from the cache` }
  }
  try {
    await load(home, commit, files, options)
  } catch (error) {
    throw sentence(name, revision, hub, error)
  }
  if (revision !== commit) {
    const ref = join(home, 'refs', revision)
    await fs.mkdir(dirname(ref), { recursive: true })
    await writeFileAtomic(ref, commit)
  }
  return { folder: join(home, 'snapshots', commit), commit }
}

const offlineByEnvironment = (): boolean => /^(1|on|yes|true)$/i.test(process.env.HF_HUB_OFFLINE ?? '')

/** A snapshot of the cache, by the name of a revision or by its commit. */
async function cached(home: string, revision: string): Promise<Found | undefined> {
  const ref = await fs.readFile(join(home, 'refs', revision), 'utf8').catch(() => revision)
  const commit = ref.trim()
  const folder = join(home, 'snapshots', commit)
  return COMMIT.test(commit) && existsSync(join(folder, 'config.json')) ? { folder, commit } : undefined
}

// ----------------------------------------------------------------------------------------------------------------- hub

interface Access {
  hubUrl: string
  accessToken?: string
}

function access({ endpoint, token }: HubOptions, usual: string): Access {
  const hubUrl = (endpoint ?? (process.env.HF_ENDPOINT || usual)).replace(/\/+$/, '')
  const accessToken = token ?? (process.env.HF_TOKEN || process.env.HUGGING_FACE_HUB_TOKEN)
  if (accessToken && !/^hf_[\x21-\x7e]+$/.test(accessToken))
    throw new InputError('HF_TOKEN: expected a token of the hub, which begins with hf_ and has no spaces.')
  return { hubUrl, ...(accessToken && { accessToken }) }
}

async function commitOf(name: string, revision: string, hub: Access): Promise<string> {
  const { modelInfo } = await client()
  const { sha } = (await modelInfo({ name, revision, additionalFields: ['sha'], ...hub })) as { sha?: unknown }
  if (typeof sha !== 'string' || !COMMIT.test(sha)) throw invalid(`${name}: its commit`, '40 digits', sha)
  return sha
}

/** The files of a commit that a model folder needs. */
async function filesOf(name: string, commit: string, hub: Access): Promise<Remote[]> {
  const { listFiles } = await client()
  const listed = new Map<string, Remote>()
  const headers = hub.accessToken ? { Authorization: `Bearer ${hub.accessToken}` } : ({} as Record<string, string>)
  for await (const entry of listFiles({ repo: name, recursive: true, revision: commit, ...hub })) {
    const { path, lfs } = entry
    checkPath(name, path)
    if (entry.type !== 'file') continue
    const sum = lfs?.oid ?? entry.oid
    const bytes = lfs?.size ?? entry.size
    if (typeof sum !== 'string' || !/^([0-9a-f]{40}|[0-9a-f]{64})$/.test(sum) || !Number.isSafeInteger(bytes))
      throw invalid(`${name}/${path}: its entry on the hub`, 'a checksum and a size', { sum, bytes })
    const url = `${hub.hubUrl}/${name}/resolve/${commit}/${path.split('/').map(encodeURIComponent).join('/')}`
    listed.set(path, { name: `${name}/${path}`, url, headers, bytes, sum })
  }
  const paths = [...listed.keys()]
  const weights = WEIGHTS.map((pattern) => paths.filter((path) => pattern.test(path))).find((some) => some.length) ?? []
  // An index names files of its own form alone.
  const other = weights[0]?.endsWith('.bin') ? 'model.safetensors.index.json' : 'pytorch_model.bin.index.json'
  const beside = paths.filter((path) => BESIDE.test(path) && path !== other)
  if (!listed.has('config.json'))
    throw new InputError(`${name}: this model of the hub has no config.json; it cannot be opened as a model folder.`)
  return [...beside, ...weights].map((path) => listed.get(path)!)
}

/** A plain relative path, whatever it is decoded by. */
function checkPath(name: string, path: unknown): asserts path is string {
  const parts = typeof path === 'string' ? path.split('/') : ['']
  // biome-ignore lint/suspicious/noControlCharactersInRegex: names with them are what is refused
  if (parts.some((part) => part === '' || part === '.' || part === '..' || /[\0-\x1f\\:%]/.test(part)))
    throw new InputError(`${name}: the hub lists a file named ${show(path)}, which is not a plain relative path.`)
}

/** The status that a server answered with, of an error of the hub's client or of a download. */
function statusOf(error: unknown): number | undefined {
  if (error instanceof HttpError) return error.status
  // HubApiError of the client
  const { statusCode } = error as { statusCode?: unknown }
  return error instanceof Error && typeof statusCode === 'number' ? statusCode : undefined
}
const isUnreachable = (error: unknown): boolean =>
  (error instanceof TypeError && error.cause !== undefined) ||
  (!(error instanceof HttpError) && (statusOf(error) ?? 0) >= 500)

/** The sentence for an answer of the hub. */
function sentence(name: string, revision: string, { hubUrl, accessToken }: Access, error: unknown): unknown {
  const status = statusOf(error)
  if (status === undefined && !isUnreachable(error)) return error
  const because = (what: string): InputError => new InputError(`${name}: ${what}.`, { cause: error })
  if (status === undefined || status >= 500)
    return because(
      `there is no such folder, and ${hubUrl} cannot be reached (${reasonOf(error)}); the cache does not hold this model`,
    )
  if (status === 401 || status === 403)
    return because(
      accessToken
        ? `the hub refuses its files with this token (${status}); accept the model's terms at ${hubUrl}/${name}, or use a token that may read it`
        : `the hub gives this model to nobody without a token, or has none of this name (${status}); set HF_TOKEN`,
    )
  if (status === 404)
    return because(`there is no such folder, and the hub has no model of this name and revision ${revision} (404)`)
  return because(`the hub refused the request (${status})`)
}

// --------------------------------------------------------------------------------------------------------------- cache

/** Loads what is missing of a snapshot, and puts all of it in its place. */
async function load(home: string, commit: string, files: readonly Remote[], options: HubOptions): Promise<void> {
  const blobs = join(home, 'blobs')
  await fs.mkdir(blobs, { recursive: true })
  const release = await lock(join(home, '.mtransllama.lock'), `the cache of ${files[0]!.name.split('/', 2).join('/')}`)
  try {
    const total = files.reduce((n, { bytes }) => n + bytes, 0)
    let done = 0
    for (const file of files) {
      const blob = join(blobs, file.sum)
      if (!existsSync(blob))
        await download(file, blob, { ...options, onBytes: (bytes) => options.onProgress?.(done + bytes, total) })
      await place(blob, join(home, 'snapshots', commit, file.name.split('/').slice(2).join('/')))
      options.onProgress?.((done += file.bytes), total)
    }
  } finally {
    await release()
  }
}

/** A link to a blob under the file's name; a copy where the system has no links. */
async function place(blob: string, path: string): Promise<void> {
  if (existsSync(path)) return
  await fs.mkdir(dirname(path), { recursive: true })
  await fs.rm(path, { force: true })
  try {
    await fs.symlink(relative(dirname(path), blob), path)
  } catch {
    await fs.copyFile(blob, path)
  }
}
