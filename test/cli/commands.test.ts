// The command line as users have it, in processes of their own: what it prints and writes, its exit codes, one sentence
// for whatever is wrong, and Ctrl-C. (The parity command is in test/models/parity.test.ts.)
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { stringify } from 'yaml'
import { loadAdapter } from '../../lib/adapter/save.js'
import { readManifest } from '../../lib/data/manifest.js'
import { openCheckpoint } from '../../lib/session/checkpoint.js'
import { type Ended, cli, start } from '../support/cli.js'
import { configOf, jsonLines, makeWorld, type World } from '../support/world.js'

let world: World
test.before(async () => void (world = await makeWorld()))

const at = (...parts: string[]): string => join(world.root, ...parts)
const clip = (): string => at('clips', 'val', '000000.mp4')
function yaml(name: string, content: unknown): string {
  writeFileSync(at(name), typeof content === 'string' ? content : stringify(content))
  return at(name)
}
const config = (name: string, more: Parameters<typeof configOf>[2] = {}): string =>
  yaml(`${name}.yaml`, configOf(world, name, more))
const ask = (...args: string[]): string[] => [
  'ask',
  '--model',
  world.model,
  '--prompt',
  'how many objects move ?',
  ...args,
]

/** The error stream without the line that says where is computed. */
const errors = (err: string): string => err.replace(/^mtransllama: computing on (cpu|cuda:\d+) \(.+\)\n/, '')

function succeeded({ code, out, err }: Ended): string {
  assert.is(code, 0, err)
  assert.is(errors(err), '')
  return out
}
/** Exit 1, nothing on the output, and one sentence about it. */
function refused({ code, out, err }: Ended, sentence: RegExp): void {
  assert.match(errors(err), sentence)
  assert.match(errors(err), /^mtransllama: [^\n]+\n$/)
  assert.is(out, '')
  assert.is(code, 1)
}

test('train, eval and ask, one after another', async () => {
  const trained = succeeded(await cli('train', config('run', { train: { epochs: 1 } })))
  assert.match(
    trained,
    /^trained +tensors +parameters\nlora +40 +3,390\nrouter +24 +1,554\nposition +2 +1,932\ntotal +66 +6,876\n12 samples, 1 epochs, 3 steps; writing to /,
  )
  assert.match(
    trained,
    /\nepoch 1: loss \d\.\d{4}, validation \d+\.\d % \(best so far\); waited for data \d+\.\d % of the time\nbest adapter: \S+best\nlast adapter: \S+last\n$/,
  )
  assert.equal(
    jsonLines(at('run', 'metrics.jsonl')).map((l) => l.kind),
    ['step', 'step', 'step', 'epoch'],
  )

  const predictions = at('predictions.jsonl')
  const [scored, image, answer] = await Promise.all([
    cli('eval', '--model', world.model, '--adapter', at('run', 'last'), '--data', world.val, '--output', predictions),
    cli('eval', '--model', world.model, '--data', world.val, '--frames', '2', '--sampling', 'first'),
    cli(
      ...ask(
        '--adapter',
        at('run', 'best'),
        '--video',
        clip(),
        '--dialogue',
        'the red circle',
        '--start',
        '0.25',
        '--end',
        '0.75',
        '--max-tokens',
        '5',
        '--no-graphs',
        '--timeout',
        '30',
      ),
    ),
  ])
  assert.match(
    succeeded(scored),
    /^attribute +\d+\.\d %  \d\/1\n(\w+ +\d+\.\d %  \d\/\d\n){3}overall +\d+\.\d %  \d\/5\n$/,
  )
  assert.match(succeeded(image), /overall +\d+\.\d %  \d\/5\n$/)
  assert.match(succeeded(answer), /^(\S+ ?){0,5}\n$/)

  const lines = jsonLines(predictions)
  const samples = await readManifest(world.val)
  assert.equal(
    lines.map((l) => l.id),
    samples.map((s) => s.id),
  )
  for (const [i, l] of lines.entries()) {
    assert.equal(Object.keys(l.losses), samples[i]!.choices)
    assert.is(l.prediction, Object.entries<number>(l.losses).sort((a, b) => a[1] - b[1])[0]![0])
    assert.is(l.correct, l.prediction === l.answer)
  }
  assert.match(scored.out, new RegExp(`overall +\\S+ %  ${lines.filter((l) => l.correct).length}/5`))
  assert.is(jsonLines(at('run', 'metrics.jsonl')).at(-1)!.accuracy, lines.filter((l) => l.correct).length / 5)

  refused(
    await cli('train', at('run.yaml')),
    /run holds a run already; go on with it \(--resume\), or choose another folder\.$/m,
  )
})

test('ask writes its answer word by word', async () => {
  const running = start(...ask('--video', clip(), '--max-tokens', '60'))
  const pieces: string[] = []
  running.process.stdout!.on('data', (text: string) => pieces.push(text))
  const out = succeeded(await running.ended)
  assert.is(pieces.join(''), out)
  assert.ok(out.split(' ').length > 10, out)
  assert.ok(pieces.length > 3, `it came in ${pieces.length} pieces`)
})

for (const [signal, expected] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const)
  test(`${signal} during training: exit ${expected}, the step is finished, and what was learned is saved and loads`, async () => {
    const name = `stopped-${signal}`
    const running = start('train', config(name, { train: { epochs: 5000 }, data: { val: undefined } }))
    const metrics = at(name, 'metrics.jsonl')
    while (!existsSync(metrics) || readFileSync(metrics, 'utf8').split('\n').length < 9) {
      await sleep(20)
      assert.is(running.process.exitCode, null, 'it is still training')
    }
    running.process.kill(signal)
    const { code, err } = await running.ended
    assert.is(code, expected)
    assert.match(
      errors(err),
      /^\nmtransllama: stopping after this step and saving; press Ctrl-C again to end at once\.\n$/,
    )
    const steps = jsonLines(metrics).filter((l) => l.kind === 'step').length
    assert.equal(
      readdirSync(at(name)).filter((f) => f.startsWith('.')),
      [],
      'nothing half-written is left',
    )
    const checkpoint = await openCheckpoint(world.model)
    const adapter = await loadAdapter(at(name, 'last'), checkpoint)
    for (const t of adapter.parameters.values()) assert.ok(((await t.data()) as Float32Array).every(Number.isFinite))
    adapter.dispose()
    checkpoint.model.dispose()
    assert.is(
      JSON.parse(readFileSync(at(name, 'last', 'training.json'), 'utf8')).steps,
      steps,
      'it is of the last step',
    )
  })

test('ask takes several questions, one answer a line, and ways to choose tokens', async () => {
  const tokens = ['--max-tokens', '4', '--beams', '3', '--length-penalty', '-1', '--repetition-penalty', '1.2']
  const [both, second, drawn] = await Promise.all([
    cli(...ask('--video', clip(), '--prompt', 'is there a red circle ?', ...tokens)),
    cli('ask', '--model', world.model, '--video', clip(), '--prompt', 'is there a red circle ?', ...tokens),
    cli(...ask('--video', clip(), '--max-tokens', '4', '--temperature', '0.9', '--top-p', '0.8', '--seed', '7')),
  ])
  const lines = succeeded(both).split('\n')
  assert.is(lines.length, 3)
  assert.is(`${lines[1]}\n`, succeeded(second), 'as when it is asked alone')
  assert.match(succeeded(drawn), /^(\S+ ?){0,4}\n$/)
})

test('the device is printed once, with the reason; cuda never falls back', async () => {
  const args = ask('--video', clip(), '--max-tokens', '1')
  const auto = await cli(...args)
  assert.is(auto.code, 0, auto.err)
  assert.match(auto.err, /^mtransllama: computing on (cpu|cuda:0) \(.+\)\n$/)
  assert.is((await cli(...args, '--device', 'cpu')).err, 'mtransllama: computing on cpu (as asked)\n')
  refused(await cli(...args, '--device', 'cuda:63'), /device: expected .*cpu.*, but got "cuda:63"; /)
  refused(
    await cli(...args, '--device', 'abacus'),
    /device: expected cpu, cuda or cuda: and a number, but got "abacus"/,
  )
  refused(await cli(...args, '--precision', 'float8'), /--precision: expected float32 or bfloat16, but got "float8"/)
})

test('inspect', async () => {
  assert.match(
    succeeded(await cli('inspect', world.model, '--brief')),
    /166 used, 0 ignored, 0 missing, 0 wrong, 0 unexpected\n[^]*total +66 +32,318\n/,
  )
})

test('one sentence for a configuration that is wrong, and nothing is written', async () => {
  const cases: [string, RegExp][] = [
    [
      config('bad-key', { dar: { routerHiden: 8 } }),
      /bad-key\.yaml: there is no key named dar\.routerHiden; did you mean dar\.routerHidden\?$/m,
    ],
    [
      config('bad-data', { data: { train: yaml('broken.jsonl', '{"id": "a"}\n{') } }),
      /broken\.jsonl, line 1, video: expected this field/,
    ],
    [config('bad-output', { output: join(clip(), 'inside') }), /output: expected a folder that can be written/],
  ]
  const ended = await Promise.all(cases.map(([path]) => cli('train', path)))
  for (const [i, [, sentence]] of cases.entries()) refused(ended[i]!, sentence)
  for (const name of ['bad-key', 'bad-data']) assert.not.ok(existsSync(at(name)), name)
})

test('one sentence for arguments that are wrong', async () => {
  const cases: [string[], RegExp][] = [
    [
      ['eval', '--model', world.model, '--data', world.val, '--batch', 'many'],
      /--batch: expected a whole number of at least 1, but got "many"/,
    ],
    [
      ['eval', '--model', world.model, '--data', world.val, '--timeout', '0'],
      /--timeout: expected seconds above 0, but got "0"/,
    ],
    [ask('--video', clip(), '--timeout', 'long'), /--timeout: expected seconds above 0, but got "long"/],
    [
      ask('--video', clip(), '--timeout', '0.001'),
      /its frames within 0\.001 s.*; .*raise the limit \(data\.timeout of a configuration, --timeout of a command\)\.$/m,
    ],
    [ask('--video', clip(), '--temperature', '-1'), /temperature: expected a number of at least 0, but got -1/],
    [ask('--video', clip(), '--beams', '2', '--temperature', '1'), /temperature: expected none with beams, but got 1/],
    [ask('--video', clip(), '--start', 'soon'), /--start: expected a number, but got "soon"/],
    [ask('--video', world.val), /manifest\.jsonl: expected a video file/],
    [
      ask('--video', clip(), '--dialogue', 'caf\uFFFD'),
      /--dialogue: expected UTF-8 text, but got "caf\uFFFD"; a character of it was lost/,
    ],
  ]
  const ended = await Promise.all(cases.map(([args]) => cli(...args)))
  for (const [i, [, sentence]] of cases.entries()) refused(ended[i]!, sentence)
  const unknown = await cli('trian')
  assert.is(unknown.code, 1)
  assert.match(unknown.err, /^error: unknown command 'trian'\n\(Did you mean train\?\)\n/)
})

test.run()
