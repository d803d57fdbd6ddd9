// The API as OpenAI's own client uses it: models, uploads, answers as a whole and as a stream, and errors in its form.
import { createReadStream, existsSync, readdirSync, symlinkSync, mkdirSync, copyFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import OpenAI from 'openai'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { NotFiniteError } from '../../lib/session/finite.js'
import { openModel, type Model, type Question } from '../../lib/session/model.js'
import { settled, bytes as nativeBytes } from '../support/memory.js'
import { temporaryFolder } from '../support/tiny.js'
import { inline, post, question, refusal, serve, type Served } from './support.js'

let server: Served
let before: number
let clips: string
test.before(async () => {
  await (await serve()).close() // what is made once
  before = await settled()
  clips = temporaryFolder('clips')
  server = await serve({ clips })
  copyFileSync(server.clip, join(clips, 'a clip.mp4'))
})
test.after(async () => {
  await server.close()
  assert.is(await nativeBytes(), before, 'all memory is given back')
  assert.equal(uploads(), [], 'no upload is left')
})

const folder = (): string =>
  join(tmpdir(), readdirSync(tmpdir()).find((n) => n.startsWith(`mtransllama-uploads-${process.pid}-`)) ?? 'none')
const uploads = (): string[] => (existsSync(folder()) ? readdirSync(folder()) : [])

async function expected(asked: Partial<Question> = {}, adapter?: string): Promise<string> {
  using model: Model = await openModel(server.world.model, { adapter: adapter && join(server.world.root, adapter) })
  let text = ''
  for await (const piece of model.ask(
    { video: server.clip, prompt: 'how many objects move ?', ...asked },
    { maxTokens: 8 },
  ))
    text += piece
  return text
}
const ask = async (body: any): Promise<string> =>
  (await server.client.chat.completions.create({ ...body, stream: false })).choices[0]!.message.content!

async function upload(): Promise<string> {
  const { id } = await server.client.files.create({ file: createReadStream(server.clip), purpose: 'user_data' })
  return id
}

test('models: the image model and each adapter', async () => {
  const { data } = await server.client.models.list()
  assert.equal(
    data.map((m) => [m.id, m.object, m.owned_by]),
    ['tiny', 'one', 'two'].map((id) => [id, 'model', 'mtransllama']),
  )
  assert.is((await server.client.models.retrieve('two')).id, 'two')
  const error = await server.client.models.retrieve('three').catch((e: unknown) => e)
  assert.instance(error, OpenAI.NotFoundError)
  assert.match((error as Error).message, /model: there is no "three" here; there is tiny, one, two\./)
})

test('an answer is the one that the model gives, whichever way the clip comes, and with whichever adapter', async () => {
  const plain = await expected()
  const id = await upload()
  assert.is(await ask(question(inline(server))), plain)
  assert.is(await ask(question(`file:${id}`)), plain)
  assert.is(await ask(question('clip:a clip.mp4')), plain)
  const file = { type: 'file', file: { file_id: id } }
  const text = { type: 'text', text: 'how many objects move ?' }
  assert.is(await ask(question('', { messages: [{ role: 'user', content: [file, text] }] })), plain)
  const [one, two] = [await expected({}, 'one'), await expected({}, 'two')]
  assert.is(new Set([plain, one, two]).size, 3, 'adapters matter')
  assert.is(await ask(question(`file:${id}`, { model: 'one' })), one)
  assert.is(await ask(question(`file:${id}`, { model: 'two' })), two)
  const dialogue = 'the red circle moves left'
  assert.is(await ask(question(`file:${id}`, { model: 'one', dialogue })), await expected({ dialogue }, 'one'))
  const part = question('')
  part.messages[0].content[1].video_url = { url: `file:${id}`, start: 0.25, end: 0.5 }
  assert.is(await ask(part), await expected({ start: 0.25, end: 0.5 }))
  const system = [{ role: 'system', content: 'describe the object' }, ...question(`file:${id}`).messages]
  assert.is(
    await ask(question('', { messages: system })),
    await expected({ prompt: 'describe the object\nhow many objects move ?' }),
  )
  await server.client.files.delete(id)
  assert.equal(uploads(), [])
})

test('the form of an answer, and the tokens that were read and written', async () => {
  const answer = await server.client.chat.completions.create(question('clip:a clip.mp4'))
  assert.match(answer.id, /^chatcmpl-/)
  assert.is(answer.object, 'chat.completion')
  assert.is(answer.model, 'tiny')
  const [{ finish_reason: finish, index, message }] = answer.choices as [OpenAI.ChatCompletion.Choice]
  assert.equal([answer.choices.length, index, message.role], [1, 0, 'assistant'])
  const { prompt_tokens: read, completion_tokens: written, total_tokens: total } = answer.usage!
  assert.is(total, read + written)
  assert.ok(read > server.model.checkpoint.model.config.numQueryTokens)
  assert.ok(finish === 'length' ? written === 8 : written < 8)
})

test('a stream: the same words piece by piece, the reason of the end, and the counts where they are asked for', async () => {
  const body = question('clip:a clip.mp4', { max_tokens: undefined, max_completion_tokens: 20 })
  const whole = await server.client.chat.completions.create(body)
  for (const usage of [false, true]) {
    const stream = await server.client.chat.completions.create({
      ...body,
      stream: true,
      ...(usage && { stream_options: { include_usage: true } }),
    })
    const chunks: OpenAI.ChatCompletionChunk[] = []
    for await (const chunk of stream as any) chunks.push(chunk)
    const words = chunks.map((c) => c.choices[0]?.delta.content ?? '')
    assert.is(words.join(''), whole.choices[0]!.message.content)
    assert.ok(words.filter(Boolean).length > 3, 'it comes in pieces')
    assert.is(chunks[0]!.choices[0]!.delta.role, 'assistant')
    assert.is(new Set(chunks.map((c) => c.id)).size, 1)
    const ends = chunks.map((c) => c.choices[0]?.finish_reason).filter(Boolean)
    assert.equal(ends, [whole.choices[0]!.finish_reason])
    assert.equal(chunks.at(-1)!.usage, usage ? whole.usage : undefined)
  }
})

test('what is wrong with a question is said in one sentence, with the status and the code of OpenAI', async () => {
  const id = await upload()
  const good = `file:${id}`
  const parts = (...content: unknown[]): any => question(good, { messages: [{ role: 'user', content }] })
  const [text, video] = question(good).messages[0].content
  const at = (start: number, end?: number): any => parts(text, { ...video, video_url: { url: good, start, end } })
  const cases: [unknown, number, RegExp, string?][] = [
    ['{', 400, /JSON/],
    ['', 400, /Body cannot be empty/],
    [{}, 400, /^request: model: expected text, but got undefined/],
    [question(good, { model: 'nope' }), 404, /^model: there is no "nope" here/, 'model_not_found'],
    [question(good, { temperature: 2.5 }), 400, /temperature: expected at most 2, but got 2.5/],
    [question(good, { temperature: -1 }), 400, /temperature: expected at least 0, but got -1/],
    [question(good, { top_p: 0 }), 400, /top_p: expected more than 0, but got 0/],
    [question(good, { seed: -1 }), 400, /seed: expected at least 0, but got -1/],
    [question(good, { repetition_penalty: 0 }), 400, /repetition_penalty: expected more than 0, but got 0/],
    [question(good, { presence_penalty: 1 }), 400, /presence_penalty: expected 0, but got 1/],
    [question(good, { n: 2 }), 400, /n: expected 1, but got 2/],
    [question(good, { max_tokens: 0 }), 400, /max_tokens: expected at least 1, but got 0/],
    [question(good, { max_token: 5 }), 400, /there is no key named max_token; did you mean max_tokens\?/],
    [question(good, { tools: [] }), 400, /there is no key named tools/],
    [question(good, { messages: [] }), 400, /messages: expected a list of at least 1/],
    [question(good, { messages: [{ role: 'user', content: 'what moves ?' }] }), 400, /exactly one clip .* there are 0/],
    [parts(text, video, video), 400, /exactly one clip .* there are 2/],
    [parts(video), 400, /there is no question/],
    [parts({ type: 'text', text: ' ' }, video), 400, /there is no question/],
    [
      parts(text, { type: 'image_url', image_url: { url: 'x' } }),
      400,
      /content\[1\]: parts are of type text, video_url or file/,
    ],
    [parts(text, { type: 'toString' }), 400, /content\[1\]: parts are of type/],
    [parts(text, { type: 'video_url' }), 400, /content\[1\]: video_url: expected an object/],
    [parts(text, { type: 'file', file: {} }), 400, /file_id, of an upload, or file_data/],
    [question(good, { messages: [{ role: 'assistant', content: 'a' }] }), 400, /the last one must be the user's/],
    [
      question(good, {
        messages: [...question(good).messages, { role: 'assistant', content: 'a' }, ...question(good).messages],
      }),
      400,
      /one question about one clip/,
    ],
    [question('file:nothing'), 404, /no uploaded file "nothing"/, 'file_not_found'],
    [question('file:../../etc/passwd'), 404, /no uploaded file/],
    [question('file:///etc/passwd'), 404, /no uploaded file/],
    [question('clip:../val/000000.mp4'), 404, /no clip named/],
    [question('clip:/etc/passwd'), 404, /no clip named/],
    [question('/etc/passwd'), 400, /video_url: expected a data: URL/],
    [question('concat:a|b'), 400, /video_url: expected a data: URL/],
    [question('http://127.0.0.1:1/a.mp4'), 400, /video_url: expected a data: URL/],
    [question('data:video/mp4,abc'), 400, /expected data:video\/…;base64/],
    [question('data:video/mp4;base64,'), 415, /The file is empty/, 'unsupported_file'],
    [
      question(`data:video/mp4;base64,${Buffer.from('#EXTM3U\nfile:///etc/passwd\n'.repeat(9)).toString('base64')}`),
      415,
      /does not begin as a video does/,
    ],
    [
      question(`data:video/mp4;base64,${server.bytes.subarray(0, 600).toString('base64')}`),
      400,
      /^the clip: expected /,
    ],
    [at(100), 400, /^start: expected a time before the end of 000000\.mp4, which lasts/],
    [at(0.5, 0.25), 400, /^end: expected a time after start/],
    [at(-1), 400, /start: expected at least 0, but got -1/],
  ]
  for (const stream of [false, true])
    for (const [body, status, sentence, code] of cases) {
      const sent = stream && typeof body === 'object' ? { ...(body as object), stream } : body
      const got = await refusal(await post(server, '/v1/chat/completions', sent))
      assert.match(got.message, sentence)
      assert.is(got.status, status, got.message)
      if (code) assert.is(got.code, code)
      assert.not.ok(got.message.includes(folder()), `a path is shown: ${got.message}`)
    }
  await server.client.files.delete(id)
  assert.equal(uploads(), [], 'clips of questions that were refused are gone')
  const error = await server.client.chat.completions.create(question(good, { temperature: 3 })).catch((e: unknown) => e)
  assert.instance(error, OpenAI.BadRequestError)
  assert.is((error as { type?: string }).type, 'invalid_request_error')
})

test('a client draws answers by temperature, top_p and seed, and its defaults draw nothing', async () => {
  const id = await upload()
  const answer = async (more: object): Promise<string> => {
    const { choices } = await server.client.chat.completions.create(question(`file:${id}`, { max_tokens: 8, ...more }))
    return choices[0]!.message.content!
  }
  const here = async (options: object): Promise<string> => {
    let text = ''
    for await (const piece of server.model.ask(
      { video: server.clip, prompt: 'how many objects move ?' },
      { adapter: null, maxTokens: 8, ...options },
    ))
      text += piece
    return text
  }
  const greedy = await here({})
  assert.is(await answer({ temperature: null, frequency_penalty: 0, presence_penalty: 0 }), greedy)
  const drawn = await Promise.all([1, 2, 3].map((seed) => answer({ temperature: 2, top_p: 0.95, seed })))
  for (const [i, text] of drawn.entries())
    assert.is(text, await here({ temperature: 2, topP: 0.95, seed: i + 1 }), `seed ${i + 1}`)
  assert.is(await answer({ top_p: 0.95, seed: 1 }), await here({ temperature: 1, topP: 0.95, seed: 1 }))
  assert.is(await answer({ repetition_penalty: 1.5 }), await here({ repetitionPenalty: 1.5 }))
  const free = new Set(await Promise.all(Array.from({ length: 6 }, () => answer({ temperature: 2 }))))
  assert.ok(free.size > 1, `six answers without a seed are all ${[...free].join()}`)
  await server.client.files.delete(id)
})

test('a failure after the first word ends the stream with an error, and the client throws', async () => {
  const failures: unknown[] = []
  const broken = await serve(
    { onError: (error) => failures.push(error) },
    (model) =>
      ({
        checkpoint: model.checkpoint,
        async *ask() {
          yield 'one'
          throw new Error('a secret of the server')
        },
      }) as unknown as Model,
  )
  const words: string[] = []
  const error = await (async () => {
    for await (const c of (await broken.client.chat.completions.create(
      question(inline(server), { stream: true }),
    )) as any)
      words.push(c.choices[0].delta.content)
  })().catch((e: unknown) => e)
  assert.equal(words, ['', 'one'])
  assert.match((error as Error).message, /The server failed; its own error stream has the reason\./)
  assert.equal(
    failures.map((f) => (f as Error).message),
    ['a secret of the server'],
  )
  await broken.close()
})

test('a model that is damaged is the failure of the server', async () => {
  const damaged = await serve(
    {},
    (model) =>
      ({
        checkpoint: model.checkpoint,
        // biome-ignore lint/correctness/useYield: it fails before its first word
        async *ask() {
          throw new NotFiniteError('the visual tokens are not finite: the weight x holds a NaN or an infinity.')
        },
      }) as unknown as Model,
  )
  const error = await refusal(await post(damaged, '/v1/chat/completions', question(inline(server))))
  assert.is(error.status, 500)
  assert.match(error.message, /^the visual tokens are not finite: the weight x/)
  await damaged.close()
})

test('http(s) URLs of clips are fetched where that is allowed, within the limits', async () => {
  const { createServer } = await import('node:http')
  const files = createServer((request, response) => {
    if (request.url === '/a.mp4') response.end(server.bytes)
    else if (request.url === '/text') response.end('words')
    else response.writeHead(404).end()
  })
  await new Promise<void>((resolve) => files.listen(0, '127.0.0.1', resolve))
  const base = `http://127.0.0.1:${(files.address() as { port: number }).port}`
  const open = await serve({ fetchUrls: true })
  const asked = await open.client.chat.completions.create(question(`${base}/a.mp4`))
  assert.is(asked.choices[0]!.message.content, await expected())
  const refused = async (url: string) => refusal(await post(open, '/v1/chat/completions', question(url)))
  assert.match((await refused(`${base}/gone`)).message, /cannot be fetched: it answers with 404/)
  assert.match((await refused(`${base}/text`)).message, /does not begin as a video does/)
  assert.match((await refused('http://127.0.0.1:1/x')).message, /cannot be fetched: /)
  await open.close()
  await new Promise((resolve) => files.close(resolve))
})

test('frames: those that the model reads', async () => {
  const response = await post(server, '/api/frames', { video: { url: 'clip:a clip.mp4' }, model: 'one' })
  const { frames } = (await response.json()) as { frames: { time: number; image: string }[] }
  assert.is(frames.length, 3)
  const { default: sharp } = await import('sharp')
  for (const [i, { time, image }] of frames.entries()) {
    assert.ok(time >= 0 && (i === 0 || time > frames[i - 1]!.time))
    const { width } = await sharp(Buffer.from(image.split(',')[1]!, 'base64')).metadata()
    assert.is(width, server.model.checkpoint.preprocessor.size.width)
  }
  const wrong = await refusal(await post(server, '/api/frames', { video: { url: 'clip:none' } }))
  assert.is(wrong.status, 404)
  assert.is((await refusal(await post(server, '/api/frames', {}))).status, 400)
})

test('clips of a folder: videos alone, and nothing outside of it by way of a link', async () => {
  symlinkSync(server.clip, join(clips, 'link.mp4'))
  writeFileSync(join(clips, 'notes.txt'), '')
  mkdirSync(join(clips, 'folder.mp4'))
  const about = (await (await fetch(`${server.url}/api/about`)).json()) as { clips: string[] }
  assert.equal(about.clips, ['a clip.mp4'])
  assert.is((await refusal(await post(server, '/v1/chat/completions', question('clip:link.mp4')))).status, 404)
})

test.run()
