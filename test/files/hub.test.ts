// Models by their names on the hub, against a server of this test that plays it, with all its faults.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { createHash } from 'node:crypto'
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { findModel, findOnHub, isHubName, type HubOptions } from '../../lib/files/hub.js'
import { cli } from '../support/cli.js'
import { fullDisk } from '../support/full-disk.js'
import { temporaryFolder } from '../support/tiny.js'
import { configOf, makeWorld, writeCheckpoint } from '../support/world.js'
import { refusal } from '../support/refusal.js'

const NAME = 'owner/tiny-blip'
const sha1 = (b: Uint8Array): string => createHash('sha1').update(`blob ${b.length}\0`).update(b).digest('hex')
const sha256 = (b: Uint8Array): string => createHash('sha256').update(b).digest('hex')

/** A repository with two commits, and what goes wrong with it. */
const commits = { old: 'a'.repeat(40), main: 'b'.repeat(40) }
let files: Map<string, Buffer>
interface Faults {
  /** Of every answer with bytes, the connection breaks after so many. */
  breakAfter?: number
  /** Answers with bytes that break; all others are whole. */
  breaks?: number
  status?: number
  /** Bytes that are sent in place of those that are listed, from the second request on. */
  changed?: Buffer
  sayEtag?: boolean
  ignoreRange?: boolean
  names?: string[]
  sha?: string
  busy?: number
}
let faults: Faults = {}
let requests: { url: string; range: string | undefined; authorization: string | undefined }[] = []

const server = createServer((request, response) => answer(request, response))
let endpoint = ''

function answer(request: IncomingMessage, response: ServerResponse): void {
  const { range, authorization } = request.headers
  const url = decodeURIComponent(request.url!)
  requests.push({ url, range, authorization })
  const json = (status: number, body: unknown, headers = {}): void => {
    response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body))
  }
  if (faults.status) return json(faults.status, { error: 'no' }, { 'x-error-code': 'GatedRepo' })
  const info = new RegExp(`^/api/models/${NAME}/revision/([^?]+)`).exec(url)
  if (info) {
    const sha = faults.sha ?? (info[1] === 'main' ? commits.main : info[1] === 'v1' ? commits.old : undefined)
    if (!sha) return json(404, { error: 'Revision not found' }, { 'x-error-code': 'RevisionNotFound' })
    return json(200, { _id: '1', id: NAME, sha, lastModified: '2026-01-01', private: false })
  }
  if (url.startsWith(`/api/models/${NAME}/tree/`)) {
    const list = [...files].map(([path, b]) => ({
      type: 'file',
      path,
      size: b.length,
      oid: sha1(b),
      ...(path.endsWith('.safetensors') && { lfs: { oid: sha256(b), size: b.length, pointerSize: 130 } }),
    }))
    const more = (faults.names ?? []).map((path) => ({ type: 'file', path, size: 1, oid: 'c'.repeat(40) }))
    return json(200, [...list, ...more, { type: 'directory', path: 'qformer_tokenizer', size: 0, oid: 'd'.repeat(40) }])
  }
  const at = new RegExp(`^/${NAME}/resolve/([0-9a-f]{40})/(.+)$`).exec(url)
  const listed = at && files.get(at[2]!)
  if (!listed) return json(404, { error: 'not found' }, { 'x-error-code': 'RepoNotFound' })
  if (faults.busy && faults.busy-- > 0) return json(503, { error: 'busy' })
  const again = range !== undefined
  const bytes = again && faults.changed ? faults.changed : listed
  const from = again && !faults.ignoreRange ? Number(/^bytes=(\d+)-$/.exec(range)![1]) : 0
  const body = bytes.subarray(from)
  response.writeHead(from ? 206 : 200, {
    'content-length': body.length,
    ...(from && { 'content-range': `bytes ${from}-${bytes.length - 1}/${bytes.length}` }),
    ...(faults.sayEtag !== false && { etag: `"${at[2]!.endsWith('.safetensors') ? sha256(bytes) : sha1(bytes)}"` }),
  })
  const { breakAfter, breaks = Infinity } = faults
  if (breakAfter !== undefined && breaks > 0 && body.length > breakAfter) {
    faults.breaks = breaks - 1
    response.write(body.subarray(0, breakAfter), () => setTimeout(() => response.destroy(), 5))
  } else response.end(body)
}

let folder: string
test.before(async () => {
  folder = await writeCheckpoint(temporaryFolder('hub-model'), 'instructblip')
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
})
test.after(() => void server.close())
test.before.each(() => {
  faults = {}
  requests = []
  files = new Map()
  for (const entry of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
    const path = entry.replaceAll('\\', '/')
    if (!lstatSync(join(folder, entry)).isDirectory()) files.set(path, readFileSync(join(folder, entry)))
  }
  files.set('README.md', Buffer.from('# not needed'))
  files.set('flax_model.msgpack', Buffer.from('not needed either'))
})

const options = (more: HubOptions = {}): HubOptions => ({
  cache: temporaryFolder('hub-cache'),
  endpoint,
  offline: false,
  wait: 0.001,
  ...more,
})
const home = (o: HubOptions): string => join(o.cache!, 'models--owner--tiny-blip')

test('a model in the cache of huggingface_hub: blobs by checksum, links of a snapshot, a reference', async () => {
  const o = options({ token: 'hf_secret' })
  const progress: [number, number][] = []
  const found = await findModel(NAME, { ...o, onProgress: (n, all) => progress.push([n, all]) })
  assert.is(found.folder, join(home(o), 'snapshots', commits.main))
  assert.is(readFileSync(join(home(o), 'refs', 'main'), 'utf8'), commits.main)
  const needed = [...files.keys()].filter((path) => !/README|flax/.test(path)).sort()
  const there = readdirSync(found.folder, { recursive: true, encoding: 'utf8' })
    .filter((path) => !lstatSync(join(found.folder, path)).isDirectory())
    .sort()
  assert.equal(there, needed)
  for (const path of needed) assert.equal(readFileSync(join(found.folder, path)), files.get(path))
  const weights = files.get('model.safetensors')!
  assert.is(readlinkSync(join(found.folder, 'model.safetensors')), join('..', '..', 'blobs', sha256(weights)))
  const total = needed.reduce((n, path) => n + files.get(path)!.length, 0)
  assert.equal(progress.at(-1), [total, total])
  assert.ok(progress.every(([n], i) => i === 0 || n >= progress[i - 1]![0]))
  assert.ok(requests.every(({ authorization }) => authorization === 'Bearer hf_secret'))

  // The second time nothing is loaded; offline nothing is asked either; another revision shares the blobs.
  requests = []
  await findModel(NAME, o)
  assert.equal(
    requests.filter(({ url }) => url.includes('/resolve/')),
    [],
  )
  requests = []
  assert.is((await findModel(NAME, { ...o, offline: true })).folder, found.folder)
  assert.is((await findOnHub(NAME, { ...o, offline: true, revision: commits.main })).folder, found.folder)
  assert.equal(requests, [])
  const old = await findModel(NAME, { ...o, revision: 'v1' })
  assert.is(old.commit, commits.old)
  assert.equal(
    requests.filter(({ url }) => url.includes('/resolve/')),
    [],
  )
  assert.is(readFileSync(join(home(o), 'refs', 'v1'), 'utf8'), commits.old)
})

test('a broken connection is continued where it ended, in this call or the next', async () => {
  const o = options()
  const size = files.get('model.safetensors')!.length
  const step = Math.ceil(size / 4)
  faults = { breakAfter: step }
  const found = await findModel(NAME, o)
  assert.equal(readFileSync(join(found.folder, 'model.safetensors')), files.get('model.safetensors'))
  const ranges = requests.filter(({ url }) => url.endsWith('model.safetensors')).map(({ range }) => range)
  assert.is(ranges.length, 4)
  assert.is(ranges[0], undefined)
  assert.match(String(ranges[1]), /^bytes=\d+-$/)

  const broken = options({ attempts: 1 })
  faults = { breakAfter: step }
  assert.match(
    await refusal(() => findModel(NAME, broken)),
    /model\.safetensors: the connection broke 1 times in a row at byte \d+ of \d+ \(.*\); call again to continue there/,
  )
  const partial = readdirSync(join(home(broken), 'blobs')).find((name) => name.endsWith('.incomplete'))!
  const kept = lstatSync(join(home(broken), 'blobs', partial)).size
  assert.ok(kept > 0)
  faults = {}
  requests = []
  await findModel(NAME, broken)
  assert.is(requests.find(({ url }) => url.endsWith('model.safetensors'))!.range, `bytes=${kept}-`)
  assert.not.ok(readdirSync(join(home(broken), 'blobs')).some((name) => name.endsWith('.incomplete')))
})

test('a server that knows no ranges, one that is busy, and one that never gets further', async () => {
  faults = { breakAfter: 5000, breaks: 1, ignoreRange: true, busy: 2 }
  const found = await findModel(NAME, options())
  assert.equal(readFileSync(join(found.folder, 'model.safetensors')), files.get('model.safetensors'))
  faults = { busy: Infinity }
  assert.match(await refusal(() => findModel(NAME, options({ attempts: 3 }))), /broke 3 times in a row at byte 0 .*503/)
})

test('a file that changes in the middle is noticed by its etag, or else by its checksum', async () => {
  const changed = Buffer.from(files.get('model.safetensors')!)
  changed[changed.length - 1]! ^= 1
  for (const sayEtag of [true, false]) {
    const o = options()
    faults = { breakAfter: 9000, breaks: 1, changed, sayEtag }
    assert.match(
      await refusal(() => findModel(NAME, o)),
      sayEtag ? /changed on the hub while it was being loaded/ : /do not have the checksum that the hub states/,
    )
    assert.not.ok(readdirSync(join(home(o), 'blobs')).some((name) => name.endsWith('.incomplete')))
    assert.not.ok(existsSync(join(home(o), 'snapshots', commits.main, 'model.safetensors')))
    faults = {}
    await findModel(NAME, o)
  }
})

test('what the hub refuses, and what it lacks', async () => {
  faults = { status: 401 }
  assert.match(await refusal(() => findModel(NAME, options())), /to nobody without a token.*\(401\); set HF_TOKEN/)
  assert.match(await refusal(() => findModel(NAME, options({ token: 'hf_x' }))), /refuses its files with this token/)
  assert.match(
    await refusal(() => findModel(NAME, options({ token: 'secret 1' }))),
    /begins with hf_ and has no spaces/,
  )
  assert.not.match(await refusal(() => findModel(NAME, options({ token: 'secret 1' }))), /secret/)
  faults = {}
  assert.match(
    await refusal(() => findModel('owner/other', options())),
    /no such folder, and the hub has no model of this name and revision main \(404\)/,
  )
  assert.match(await refusal(() => findModel(NAME, options({ revision: 'v9' }))), /revision v9 \(404\)/)
  assert.match(await refusal(() => findModel(NAME, options({ offline: true }))), /not in .* and offline mode is on/)
  assert.match(
    await refusal(() => findModel(folder, options({ revision: 'main' }))),
    /revision: expected none for a folder/,
  )
  files.delete('config.json')
  assert.match(await refusal(() => findModel(NAME, options())), /has no config\.json/)
})

test('a hub that cannot be reached: the cache, and the reason', async () => {
  const o = options()
  await findModel(NAME, o)
  const dead = { ...o, endpoint: 'http://127.0.0.1:9' }
  const found = await findModel(NAME, dead)
  assert.is(found.commit, commits.main)
  assert.match(found.note!, /127\.0\.0\.1:9 cannot be reached \(.+\); owner\/tiny-blip is taken from the cache/)
  assert.match(
    await refusal(() => findModel('owner/none', dead)),
    /no such folder, and http:\/\/127\.0\.0\.1:9 cannot be reached/,
  )
})

test('names that lead elsewhere are no names of the hub, and files with such names are refused', async () => {
  for (const name of [
    '../x',
    'a/..',
    '/etc/passwd',
    'a/b/c',
    'a%2fb',
    'a/b%2f..',
    'a\\b',
    'a',
    'a/b c',
    '.a/b',
    'a/b--c',
  ])
    assert.not.ok(isHubName(name), name)
  assert.match(await refusal(() => findOnHub('../../etc/passwd', options())), /expected a name of the hub, OWNER\/NAME/)
  for (const revision of ['../x', '/x', 'a..b', 'x%2fy', ''])
    assert.match(await refusal(() => findModel(NAME, options({ revision }))), /revision: expected a branch/, revision)
  assert.equal(requests, [])
  for (const path of [
    '../x.json',
    '/etc/x.json',
    'a/../../x.json',
    'a\\..\\x.json',
    '..%2fx.json',
    'C:x.json',
    'x\0.json',
  ]) {
    const o = options()
    faults = { names: [path] }
    assert.match(await refusal(() => findModel(NAME, o)), /which is not a plain relative path/, path)
    assert.not.ok(existsSync(home(o)))
  }
  faults = { sha: '../../../x' }
  assert.match(await refusal(() => findModel(NAME, options())), /its commit: expected 40 digits/)
})

test('a disk that fills up: one sentence, and the next call goes on', async () => {
  const o = options()
  const weights = `${sha256(files.get('model.safetensors')!)}.incomplete`
  const message = await refusal(() => findModel(NAME, { ...o, on: fullDisk(1) }))
  assert.match(message, /\.incomplete: cannot be written: the disk is full \(ENOSPC\); what is there is kept/)
  const found = await findModel(NAME, o)
  assert.equal(readFileSync(join(found.folder, 'model.safetensors')), files.get('model.safetensors'))
  assert.not.ok(existsSync(join(home(o), 'blobs', weights)))
})

test('two processes: the second is told so', async () => {
  const o = options()
  mkdirSync(home(o), { recursive: true })
  writeFileSync(join(home(o), '.mtransllama.lock'), JSON.stringify({ pid: process.pid, host: 'elsewhere', start: '' }))
  assert.match(await refusal(() => findModel(NAME, o)), /the cache of owner\/tiny-blip is in use by process/)
})

test('commands take names: download prints the folder, inspect reads it offline', async () => {
  const cache = temporaryFolder('hub-cache')
  const before = { ...process.env }
  Object.assign(process.env, { HF_HUB_CACHE: cache, HF_ENDPOINT: endpoint })
  try {
    const got = await cli('download', NAME, '--revision', 'v1')
    assert.is(got.err, '')
    assert.is(got.out, `${join(cache, 'models--owner--tiny-blip', 'snapshots', commits.old)}\n`)
    const seen = await cli('inspect', NAME, '--revision', 'v1', '--offline', '--brief')
    assert.is(seen.code, 0, seen.err)
    assert.match(seen.out, /InstructBLIP/)
    const none = await cli('inspect', NAME, '--offline')
    const absent =
      /^mtransllama: owner\/tiny-blip: there is no such folder, the model is not in .* offline mode is on\.\n$/
    assert.match(none.err, absent)
    // So do configurations.
    const world = await makeWorld()
    const [file, output] = [join(world.root, 'named.yaml'), join(world.root, 'run')]
    writeFileSync(file, JSON.stringify(configOf(world, 'run', { model: NAME, train: { epochs: 1 } })))
    const valid = await cli('validate', file, '--revision', 'v1', '--offline')
    assert.is(valid.code, 0, valid.err)
    assert.match(valid.out, /training would start\n$/)
    for (const command of ['validate', 'train', 'plan', 'show-batch', 'check-data'])
      assert.match((await cli(command, file, '--offline')).err, absent, command)
    assert.not.ok(existsSync(output))
    const trained = await cli('train', file, '--revision', 'v1')
    assert.is(trained.code, 0, trained.err)
    const { base } = JSON.parse(readFileSync(join(output, 'best', 'mtransllama.json'), 'utf8'))
    assert.is(base.name, commits.old)
  } finally {
    for (const key of ['HF_HUB_CACHE', 'HF_ENDPOINT'])
      if (before[key] === undefined) delete process.env[key]
      else process.env[key] = before[key]
  }
})

test.run()
