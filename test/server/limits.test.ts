// What a server meets: more clients than it can answer, ones that go away, never read, send slowly, too much or nonsense,
// pages of other sites. Each gets a clear error, nothing is left, and the next question is answered.
import { setMaxListeners } from 'node:events'
import { existsSync, readdirSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import OpenAI from 'openai'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { InputError } from '../../lib/errors.js'
import { container } from '../../lib/server/uploads.js'
import type { Model } from '../../lib/session/model.js'
import { settled } from '../support/memory.js'
import { gated, inline, post, question, refusal, serve, until, Wire, type Served } from './support.js'

const folders = (): string[] => readdirSync(tmpdir()).filter((n) => n.startsWith(`mtransllama-uploads-${process.pid}-`))
/** Files of the server's folder of uploads. */
const uploads = (): string[] => folders().flatMap((name) => readdirSync(join(tmpdir(), name)))

const health = async (server: Served): Promise<{ status: string; running: number; waiting: number }> =>
  (await fetch(`${server.url}/healthz`)).json() as any
/** It still answers. */
async function alive(server: Served): Promise<void> {
  const response = await post(server, '/v1/chat/completions', question(inline(server), { max_tokens: 1 }))
  assert.is(response.status, 200, await response.text())
}

test('one question at a time, others in order, and 429 with Retry-After once the queue is full', async () => {
  const gate = gated()
  const server = await serve({ queue: 2 }, gate.around)
  const ask = (n: number): Promise<Response> => {
    const body = question(inline(server))
    body.messages[0].content[0].text = `object ${n}`
    return post(server, '/v1/chat/completions', body)
  }
  const asked: Promise<Response>[] = []
  for (let n = 0; n < 3; n++) {
    asked.push(ask(n))
    await until(async () => (await health(server)).waiting + gate.begun.length === n + 1)
  }
  // The addon has computed its first word; the server goes on answering.
  assert.equal(await health(server), { status: 'ok', running: 1, waiting: 2 })
  const full = await ask(3)
  assert.ok(Number(full.headers.get('retry-after')) >= 1)
  const error = await refusal(full)
  assert.equal([error.status, error.code], [429, 'queue_full'])
  assert.match(error.message, /^The queue is full: 1 requests are being answered and 2 wait; try again in \d+ s\.$/)
  const thrown = await server.client.chat.completions.create(question(inline(server))).catch((e: unknown) => e)
  assert.instance(thrown, OpenAI.RateLimitError)
  assert.equal(gate.begun, ['object 0'])
  gate.open()
  for (const response of await Promise.all(asked)) assert.is(response.status, 200)
  assert.equal(gate.begun, ['object 0', 'object 1', 'object 2'])
  assert.equal(await health(server), { status: 'ok', running: 0, waiting: 0 })
  await alive(server)
  await server.close()
})

test('a client that goes away stops its answer, and gives up its place', async () => {
  const gate = gated()
  const server = await serve({ queue: 4 }, gate.around)
  const [first, second, third] = [new AbortController(), new AbortController(), new AbortController()]
  const ask = async (signal: AbortSignal, stream: boolean): Promise<string> => {
    try {
      const made: any = await server.client.chat.completions.create(question(inline(server), { stream }), { signal })
      for await (const _ of stream ? made : []);
      return 'answered'
    } catch (error) {
      return (error as Error).constructor.name
    }
  }
  const one = ask(first.signal, true)
  await until(() => gate.begun.length === 1)
  const two = ask(second.signal, false)
  await until(async () => (await health(server)).waiting === 1)
  const three = ask(third.signal, false)
  await until(async () => (await health(server)).waiting === 2)
  second.abort() // it waits
  assert.is(await two, 'APIUserAbortError')
  await until(async () => (await health(server)).waiting === 1)
  first.abort() // it is being answered
  await one
  await until(() => gate.ended.length === 1)
  await until(() => gate.begun.length === 2)
  third.abort()
  assert.is(await three, 'APIUserAbortError')
  await until(() => gate.ended.length === 2)
  await until(async () => (await health(server)).running === 0)
  assert.is(gate.begun.length, 2, 'the one that went away while it waited was never begun')
  gate.open()
  await alive(server)
  await until(() => uploads().length === 0)
  await server.close()
})

test('a client that never reads is waited for, then its answer ends', async () => {
  let [made, ended] = [0, 0]
  const server = await serve(
    { patience: 1 },
    (model) =>
      ({
        checkpoint: model.checkpoint,
        async *ask(q: any, o: any) {
          if (q.prompt !== 'for ever') return yield* model.ask(q, o)
          try {
            for (;;) {
              made++
              yield 'word '.repeat(20_000)
            }
          } finally {
            ended++
          }
        },
      }) as unknown as Model,
  )
  const wire = new Wire(server)
  wire.socket.pause()
  const body = question(inline(server), { stream: true })
  body.messages[0].content[0].text = 'for ever'
  const text = JSON.stringify(body)
  wire.write(
    `POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: ${text.length}\r\n\r\n${text}`,
  )
  await until(() => made > 3)
  await until(() => ended === 1)
  const words = made
  await until(async () => (await health(server)).running === 0)
  assert.is(made, words, 'nothing is generated for it any more')
  wire.socket.destroy()
  await alive(server)
  await server.close()
})

test('200 questions at once: some are answered, the others are told to come back, none is lost', async () => {
  const server = await serve({ queue: 8 })
  const body = question(inline(server), { max_tokens: 2 })
  const statuses = await Promise.all(
    Array.from({ length: 200 }, async () => {
      const response = await post(server, '/v1/chat/completions', body)
      const json = (await response.json()) as any
      if (response.status === 429) assert.ok(Number(response.headers.get('retry-after')) >= 1)
      else assert.ok(json.choices[0].message.content.length >= 0)
      return response.status
    }),
  )
  const count = (status: number): number => statuses.filter((s) => s === status).length
  assert.is(count(200) + count(429), 200, `${[...new Set(statuses)]}`)
  assert.ok(count(200) >= 9 && count(429) > 0, `${count(200)} answered`)
  await alive(server)
  await server.close()
})

test('load: 200 questions from 16 clients, 429 while the queue is full, none lost, memory flat', async () => {
  const server = await serve({ queue: 8 })
  const signal = AbortSignal.timeout(300_000) // it ends, whatever happens
  setMaxListeners(0, signal) // as many questions hang on it as are open
  let full = 0
  const { id } = await server.client.files.create({
    file: new File([server.bytes], 'clip.mp4'),
    purpose: 'user_data',
  })
  const ask = async (n: number): Promise<string> => {
    const model = ['tiny', 'one', 'two'][n % 3]
    const body = question(`file:${id}`, { model, max_tokens: 4 + (n % 5), stream: n % 2 === 1 })
    let made: any
    while (!made)
      try {
        made = await server.client.chat.completions.create(body, { signal })
      } catch (error) {
        if (!(error instanceof OpenAI.RateLimitError)) throw error
        full++
        await sleep(20)
      }
    if (n % 2 === 0) return made.choices[0].message.content
    let text = ''
    for await (const chunk of made) text += chunk.choices[0].delta.content ?? ''
    return text
  }
  const round = async (from: number, to: number): Promise<string[]> => {
    const answers: string[] = []
    let next = from
    const client = async (): Promise<void> => {
      for (let n = next++; n < to; n = next++) answers[n] = await ask(n)
    }
    await Promise.all(Array.from({ length: 16 }, client))
    return answers
  }
  const answers = await round(0, 30) // what comes again every 30 questions, one by one first
  const heap = async (): Promise<[number, number]> => [await settled(), process.memoryUsage().heapUsed]
  const [native, used] = await heap()
  full = 0
  let busy = 0 // times that the server said, while it computed, that it computes
  const [more] = await Promise.all([
    round(30, 230),
    (async () => {
      for (let i = 0; i < 50; i++) busy += (await health(server)).running
    })(),
  ])
  assert.ok(busy > 0)
  assert.ok(full > 0, 'the queue was full')
  for (let n = 30; n < 230; n++) assert.is(more[n], answers[n % 30], `question ${n}`)
  const [native_end, used_end] = await heap()
  assert.is(native_end, native)
  assert.ok(used_end - used < 8 * 2 ** 20, `the heap has grown by ${used_end - used} bytes`)
  assert.equal(await health(server), { status: 'ok', running: 0, waiting: 0 })
  await server.close()
})

test('a token, where one is set; the page itself and the health are open', async () => {
  const server = await serve({ token: 'open sesame' })
  assert.is((await fetch(`${server.url}/`)).status, 200)
  assert.is((await fetch(`${server.url}/healthz`)).status, 200)
  for (const headers of [{}, { authorization: 'Bearer open' }, { authorization: 'open sesame' }] as Record<
    string,
    string
  >[])
    for (const path of ['/v1/models', '/api/about', '/v1/files']) {
      const response = await fetch(server.url + path, { headers })
      assert.is(response.headers.get('www-authenticate'), 'Bearer')
      const error = await refusal(response)
      assert.equal([error.status, error.code], [401, 'invalid_api_key'], path)
    }
  assert.is((await server.client.models.list()).data.length, 3)
  await server.close()
})

test('an address that others can reach needs a token', async () => {
  const refused = async (options: Parameters<typeof serve>[0]): Promise<string> => {
    const error = await serve(options).catch((e: unknown) => e)
    assert.instance(error, InputError)
    return (error as Error).message
  }
  assert.match(await refused({ host: '0.0.0.0' }), /^host: others can reach 0\.0\.0\.0, so a token is needed/)
  assert.match(await refused({ host: '0.0.0.0', token: 'short' }), /at least 8 characters/)
  assert.equal(folders(), [], 'nothing is left')
})

test('a port that is taken, an adapter that cannot be used, folders that are not there: one sentence', async () => {
  const other = createServer()
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve))
  const { port } = other.address() as { port: number }
  const message = async (options: Parameters<typeof serve>[0]): Promise<string> => {
    const error = await serve(options).catch((e: unknown) => e)
    assert.instance(error, InputError, String(error))
    return (error as Error).message
  }
  assert.match(
    await message({ port }),
    new RegExp(`^port: cannot listen on 127\\.0\\.0\\.1:${port}: another program listens there; choose another port`),
  )
  assert.match(await message({ adapters: new Map([['a', tmpdir()]]) }), /mtransllama\.json: no such file/)
  assert.match(await message({ name: 'one' }), /adapter: one is the name of the model itself/)
  assert.match(await message({ runs: join(tmpdir(), 'not there') }), /^runs: expected a folder that can be read/)
  assert.match(await message({ clips: join(tmpdir(), 'not there') }), /^clips: expected a folder that can be read/)
  other.close()
  assert.equal(folders(), [])
})

test('pages of other sites cannot use it', async () => {
  const server = await serve()
  const get = async (host: string, more = ''): Promise<string> => {
    const wire = new Wire(server)
    wire.write(`GET /v1/models HTTP/1.1\r\nhost: ${host}\r\n${more}connection: close\r\n\r\n`)
    await wire.until(/\r\n\r\n/)
    return /^HTTP\/1\.1 (\d+)/.exec(wire.received)![1]!
  }
  assert.is(await get(`127.0.0.1:${server.port}`), '200')
  assert.is(await get(`localhost:${server.port}`, `origin: http://localhost:${server.port}\r\n`), '200')
  assert.is(await get(`[::1]:${server.port}`), '200')
  assert.is(await get('evil.example'), '403', 'a name that someone else has made point here')
  assert.is(await get(`127.0.0.1:${server.port}`, 'origin: https://evil.example\r\n'), '403')
  assert.is(await get(`127.0.0.1:${server.port}`, 'origin: null\r\n'), '403')
  const page = await fetch(`${server.url}/`)
  assert.match(page.headers.get('content-security-policy')!, /^default-src 'none'; script-src 'self'/)
  assert.is(page.headers.get('x-content-type-options'), 'nosniff')
  for (const path of [
    '/../package.json',
    '/%2e%2e/package.json',
    '/page/../../package.json',
    '/v1',
    '/v1/files/..%2f..%2fetc',
  ])
    assert.is((await fetch(server.url + path)).status, 404, path)
  await server.close()
})

// ------------------------------------------------------------------------------------------------------------- uploads

const form = (bytes: Uint8Array | string, name = 'clip.mp4', field = 'file'): FormData => {
  const data = new FormData()
  data.append('purpose', 'user_data')
  data.append(field, new Blob([bytes as string]), name)
  return data
}
const send = (server: Served, body: FormData): Promise<Response> =>
  fetch(`${server.url}/v1/files`, { method: 'POST', body })

test('an upload that is too large is refused before it is read, or as soon as it has become so', async () => {
  const server = await serve({ uploadBytes: 100_000 })
  const wire = new Wire(server)
  // 10 GB, of which nothing is sent
  wire.write(
    `POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-type: multipart/form-data; boundary=x\r\ncontent-length: 10000000000\r\n\r\n`,
  )
  await wire.until(/"code":"file_too_large"/)
  assert.match(wire.received, /^HTTP\/1\.1 413 /)
  await until(() => wire.closed)
  // the same without saying how much will come
  const endless = new Wire(server)
  endless.write(
    `POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-type: multipart/form-data; boundary=x\r\ntransfer-encoding: chunked\r\n\r\n`,
  )
  const chunk = (text: string | Buffer): void => {
    endless.write(`${text.length.toString(16)}\r\n`)
    endless.write(text)
    endless.write('\r\n')
  }
  chunk('--x\r\ncontent-disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n')
  chunk(server.bytes)
  for (let i = 0; i < 10_000 && !endless.received && !endless.closed; i++) {
    chunk(Buffer.alloc(10_000))
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
  await endless.until(/"code":"file_too_large"/)
  await until(() => uploads().length === 0)
  endless.socket.destroy()
  // and a clip inside of a question
  const large = await refusal(
    await post(server, '/v1/chat/completions', question(`data:video/mp4;base64,${'A'.repeat(30 * 2 ** 20)}`)),
  )
  assert.equal([large.status, large.code], [413, 'request_too_large'])
  await alive(server)
  await server.close()
})

test('bodies that are no form, a form without an end, without a clip, or with something else: one sentence, nothing left', async () => {
  const server = await serve({ patience: 1 })
  const cases: [string, string, number, RegExp][] = [
    ['application/json', '{}', 415, /Send the clip as multipart\/form-data/],
    ['multipart/form-data', 'x', 400, /multipart body cannot be read: .*[Bb]oundary/],
    [
      'multipart/form-data; boundary=x',
      'no form at all',
      400,
      /multipart body cannot be read: Unexpected end of multipart data/,
    ],
    [
      'multipart/form-data; boundary=x',
      '--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nab',
      400,
      /Unexpected end of multipart data/,
    ],
    ['multipart/form-data; boundary=x', '--x\r\nnonsense\r\n\r\n\r\n--x--\r\n', 400, /The form has no file/],
    ['multipart/form-data; boundary=x', '--x--\r\n', 400, /The form has no file/],
  ]
  for (const [type, body, status, sentence] of cases) {
    const error = await refusal(await post(server, '/v1/files', body, { 'content-type': type }))
    assert.match(error.message, sentence)
    assert.is(error.status, status, error.message)
  }
  assert.match((await refusal(await send(server, form('', 'a')))).message, /The file is empty/)
  assert.match((await refusal(await send(server, form('words '.repeat(99))))).message, /does not begin as a video does/)
  assert.match((await refusal(await send(server, form(server.bytes, 'a', 'other')))).message, /in a field named file/)
  const two = form(server.bytes)
  two.append('file', new Blob([new Uint8Array(server.bytes)]), 'second.mp4')
  assert.match((await refusal(await send(server, two))).message, /one clip in a request/)
  // A client that stops in the middle, and one that goes away there.
  const head = `POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-type: multipart/form-data; boundary=x\r\ncontent-length: 90000\r\n\r\n--x\r\ncontent-disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n`
  const [slow, gone] = [new Wire(server), new Wire(server)]
  for (const wire of [slow, gone]) {
    wire.write(head)
    wire.write(server.bytes)
  }
  await until(() => uploads().length >= 1)
  gone.socket.destroy()
  await slow.until(/"code":"too_slow"/)
  assert.match(slow.received, /^HTTP\/1\.1 408 /)
  await until(() => uploads().length === 0)
  // A question that is sent too slowly does not keep its place.
  const question_ = new Wire(server)
  question_.write(
    'POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{',
  )
  await until(async () => (await health(server)).waiting === 1)
  await question_.until(/"code":"too_slow"/)
  await until(async () => (await health(server)).waiting === 0)
  // A client that sends no request at all.
  const silent = new Wire(server)
  await until(() => silent.closed)
  await alive(server)
  await server.close()
})

test('uploads are deleted: when asked, after their time, for newer ones, and with the server', async () => {
  const server = await serve({ uploadSeconds: 2, uploadBytes: 30_000 })
  const { client } = server
  const upload = async (): Promise<string> =>
    (await client.files.create({ file: new File([server.bytes], '../../x.mp4'), purpose: 'user_data' })).id
  const first = await upload()
  assert.is((await client.files.retrieve(first)).filename.includes('x.mp4'), true)
  assert.equal(uploads(), [first], 'the name of the client is nowhere on the disk')
  assert.ok((await client.files.delete(first)).deleted)
  assert.equal(uploads(), [])
  await upload()
  await until(() => uploads().length === 0)
  assert.equal((await client.files.list()).data, [])
  await server.close()
  const kept = await serve({ uploadBytes: 30_000 }) // 120,000 in all: four clips
  const ids: string[] = []
  for (let i = 0; i < 6; i++) {
    const { id } = (await (await send(kept, form(kept.bytes))).json()) as { id: string }
    ids.push(id)
    await new Promise((resolve) => setTimeout(resolve, 2)) // so that one is older than the other
  }
  assert.equal(uploads().sort(), ids.slice(2).sort())
  assert.ok(existsSync(join(tmpdir(), folders()[0]!)))
  await kept.close()
  assert.equal(folders(), [])
})

test('what begins as a video does', () => {
  const bytes = (text: string): Uint8Array => Buffer.concat([Buffer.from(text, 'latin1'), Buffer.alloc(200)])
  const transport = new Uint8Array(200)
  transport[0] = transport[188] = 0x47
  for (const [head, ending] of [
    [bytes('\0\0\0\x20ftypisom'), 'mp4'],
    [bytes('\0\0\0\x20ftypqt  '), 'mov'],
    [bytes('\x1aE\xdf\xa3'), 'mkv'],
    [bytes('RIFF\0\0\0\0AVI '), 'avi'],
    [bytes('OggS'), 'ogv'],
    [bytes('GIF89a'), 'gif'],
    [transport, 'ts'],
    [bytes('RIFF\0\0\0\0WAVE'), undefined],
    [bytes('#EXTM3U\n'), undefined],
    [bytes('ffconcat version 1.0\n'), undefined],
    [bytes('<?xml version="1.0"?><MPD>'), undefined],
    [bytes('\x89PNG'), undefined],
    [new Uint8Array(0), undefined],
  ] as const)
    assert.is(container(head), ending)
})

test('stopping the server ends what is being answered', async () => {
  const gate = gated()
  const server = await serve({}, gate.around)
  const asked = post(server, '/v1/chat/completions', question(inline(server))).then(
    (r) => r.status,
    () => 'closed',
  )
  await until(() => gate.begun.length === 1)
  await server.close()
  assert.is(gate.ended.length, 1)
  assert.ok([503, 'closed'].includes(await asked))
  assert.equal(folders(), [])
})

test.run()
