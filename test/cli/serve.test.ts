// `serve` as users start it: what it prints, how it ends, and one sentence for whatever is wrong.
import { readdirSync, readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { openModel } from '../../lib/session/model.js'
import { parseAdapters } from '../../lib/cli/serve.js'
import { cli, start } from '../support/cli.js'
import { makeWorld, writeAdapter, type World } from '../support/world.js'

let world: World
test.before(async () => {
  world = await makeWorld()
  using model = await openModel(world.model)
  await writeAdapter(model, join(world.root, 'adapter'), 1)
})

test('it says where it listens, answers, and ends on SIGTERM without leaving anything', async () => {
  const running = start(
    'serve',
    '--model',
    world.model,
    '--adapter',
    `mine=${join(world.root, 'adapter')}`,
    '--port',
    '0',
  )
  let out = ''
  running.process.stdout!.on('data', (text: string) => (out += text))
  await running.until(/serving .*\n/)
  const [, names, url] = /^serving (.*) at (http:\/\/127\.0\.0\.1:\d+)\/\n$/.exec(out)!
  assert.is(names, 'model, mine')
  const form = new FormData()
  form.append('file', new Blob([readFileSync(join(world.root, 'clips', 'val', '000000.mp4'))]), 'clip.mp4')
  const { id } = (await (await fetch(`${url}/v1/files`, { method: 'POST', body: form })).json()) as { id: string }
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      model: 'mine',
      messages: [
        {
          role: 'user',
          content: [
            { type: 'text', text: 'what moves ?' },
            { type: 'file', file: { file_id: id } },
          ],
        },
      ],
    }),
  })
  assert.is(response.status, 200, await response.clone().text())
  running.process.kill('SIGTERM')
  const { code, err } = await running.ended
  assert.is(code, 0)
  assert.match(err, /^mtransllama: computing on .*\n\nmtransllama: stopping; press Ctrl-C again to end at once\.\n$/)
  const left = readdirSync(tmpdir()).filter((n) => n.startsWith(`mtransllama-uploads-${running.process.pid}-`))
  assert.equal(left, [])
})

test('one sentence for what is wrong', async () => {
  const other = createServer()
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve))
  const { port } = other.address() as { port: number }
  const cases: [string[], RegExp][] = [
    [['--port', String(port)], /port: cannot listen on 127\.0\.0\.1:\d+: another program listens there/],
    [['--port', 'eighty'], /--port: expected a number from 0 to 65535, but got "eighty"/],
    [['--host', '0.0.0.0'], /host: others can reach 0\.0\.0\.0, so a token is needed; set MTRANSLLAMA_TOKEN/],
    [['--adapter', 'a b=c'], /--adapter: expected NAME=DIR/],
    [['--adapter', `a=${tmpdir()}`], /mtransllama\.json: no such file/],
    [['--queue', '0'], /--queue: expected a whole number of at least 1, but got "0"/],
  ]
  const ended = await Promise.all(cases.map(([args]) => cli('serve', '--model', world.model, ...args)))
  other.close()
  for (const [i, [, sentence]] of cases.entries()) {
    const { code, out, err } = ended[i]!
    assert.is(code, 1)
    assert.is(out, '')
    assert.match(err.replace(/^mtransllama: computing on .*\n/, ''), /^mtransllama: [^\n]+\n$/)
    assert.match(err, sentence)
  }
})

test('adapters and their names', () => {
  assert.equal(
    [...parseAdapters(['a=x/y', 'z/best', 'b=c=d'])],
    [
      ['a', 'x/y'],
      ['best', 'z/best'],
      ['b', 'c=d'],
    ],
  )
  assert.throws(() => parseAdapters(['a=x', 'a=y']), /the name a is given twice/)
  for (const wrong of ['a=', '=x', 'a/b=x']) assert.throws(() => parseAdapters([wrong]), /expected NAME=DIR/)
})

test.run()
