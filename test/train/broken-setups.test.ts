// `validate` on set-ups that are broken in one way each: one sentence that names the file or key and says what to do,
// exit 1, no stack, nothing written. (`doctor` on broken installations: test/cli/doctor.test.ts.)
import { cpSync, existsSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { stringify } from 'yaml'
import { register } from '../../lib/cli/validate.js'
import { cli, inProcess } from '../support/cli.js'
import { configOf, jsonLines, makeWorld, type World, writeCheckpoint } from '../support/world.js'

let world: World
test.before(async () => void (world = await makeWorld()))
const at = (...parts: string[]): string => join(world.root, ...parts)

function file(name: string, content: string | Buffer): string {
  writeFileSync(at(name), content)
  return at(name)
}
type Change = Parameters<typeof configOf>[2]
const config = (more: Change): string => file('broken.yaml', stringify(configOf(world, 'broken', more)))
/** A copy of the model with a change. */
function model(change: (folder: string) => void): Change {
  rmSync(at('broken-model'), { recursive: true, force: true })
  cpSync(world.model, at('broken-model'), { recursive: true })
  change(at('broken-model'))
  return { model: at('broken-model') }
}
type Line = Record<string, any>
/** The training samples with a change to the third. */
function samples(change: (line: Line) => unknown): Change {
  const lines: Line[] = jsonLines(world.train).map((l) => ({ ...l, video: join(world.train, '..', l['video']) }))
  change(lines[2]!)
  return { data: { train: file('broken.jsonl', lines.map((l) => `${JSON.stringify(l)}\n`).join('')) } }
}
function edit(folder: string, change: (config: any) => void): void {
  const value = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'))
  change(value)
  writeFileSync(join(folder, 'config.json'), JSON.stringify(value))
}

const pointer = 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n'
const setups: Record<string, [() => string | Promise<string>, RegExp]> = {
  'a configuration that is not there': [
    () => at('gone.yaml'),
    /gone\.yaml: no such file; mtransllama init writes one\.$/,
  ],
  'a configuration that is not YAML': [
    () => file('broken.yaml', 'model: m\ndata: [a\ntrain: b'),
    /broken\.yaml: not YAML: .* at line 3, column 1\.$/,
  ],
  'a key that is mistyped': [
    () => config({ train: { epoch: 3 } }),
    /broken\.yaml: there is no key named train\.epoch; did you mean train\.epochs\?$/,
  ],
  'a key that is missing': [
    () => file('broken.yaml', 'model: m\noutput: o'),
    /broken\.yaml: data: expected an object, but got undefined; it is required\.$/,
  ],
  'a section without a key': [
    () => config({ dar: null }),
    /broken\.yaml: dar: expected an object, but got null; give it a value, or leave the key out\.$/,
  ],
  'a model that is not there': [
    () => config({ model: at('gone') }),
    /gone\/config\.json: no such file; a Hugging Face model folder has one: check the path, or download the whole model\.$/,
  ],
  'a model without weights': [
    () => config(model((m) => rmSync(join(m, 'model.safetensors')))),
    /broken-model: there is no model\.safetensors .* in this folder; download the whole model\.$/,
  ],
  'weights of which only the pointer was fetched': [
    () => config(model((m) => writeFileSync(join(m, 'model.safetensors'), pointer))),
    /model\.safetensors: .*it is a Git LFS pointer and not the file itself; run "git lfs pull" in its repository\.$/,
  ],
  'weights that are cut off': [
    () => config(model((m) => truncateSync(join(m, 'model.safetensors'), 5000))),
    /model\.safetensors: .*the file ends after 5000; it may be truncated, so fetch it again\.$/,
  ],
  'weights of another model': [
    () => config(model((m) => edit(m, (c) => (c.qformer_config.hidden_size = 24)))),
    /broken-model: the weights do not fit config\.json; of the tensors, 106 wrong .*; take both from the same model\.$/,
  ],
  'a model of another kind': [
    () => config(model((m) => edit(m, (c) => (c.model_type = 'llava')))),
    /config\.json: model_type: expected instructblip or blip-2, but got "llava"; .*not supported\.$/,
  ],
  'a tokenizer that is missing': [
    () => config(model((m) => rmSync(join(m, 'qformer_tokenizer'), { recursive: true }))),
    /qformer_tokenizer\/tokenizer\.json: no such file; .*: download the whole model\.$/,
  ],
  'a Q-Former without a text path': [
    async () => config({ model: await writeCheckpoint(at('blip2'), 'blip2') }),
    /fusion: the Q-Former of a blip-2 checkpoint has no text path.*; set fusion: false .* or use an InstructBLIP/,
  ],
  'more frames than the table has': [
    () => config({ frames: 100 }),
    /frames: expected at most temporal\.maxFrames \(64\), but got 100; raise temporal\.maxFrames or take fewer frames\.$/,
  ],
  'a mask file that is not there': [
    () => config({ dar: { spatialMasks: 'mine.safetensors' } }),
    /dar\.spatialMasks \(.*mine\.safetensors\): expected "window", "modality" or a safetensors file, but got no such file\.$/,
  ],
  'a manifest that is not there': [
    () => config({ data: { train: at('gone.jsonl') } }),
    /gone\.jsonl: expected a readable manifest \(JSONL\), .*; mtransllama import-csv writes one from a table\.$/,
  ],
  'a table in the place of a manifest': [
    () => config({ data: { val: file('table.csv', 'id,video\n') } }),
    /table\.csv: expected a manifest \(JSONL\), but got a table; mtransllama import-csv writes one from a table\.$/,
  ],
  'a manifest in another encoding': [
    () => config({ data: { train: file('latin.jsonl', Buffer.from('{"id": "caf\xe9"}\n', 'latin1')) } }),
    /latin\.jsonl, line 1: expected UTF-8 text, but got the byte 0xe9 .*; save the file as UTF-8/,
  ],
  'a video that is not there': [
    () => config(samples((l) => (l['video'] = at('gone.mp4')))),
    /broken\.jsonl, line 3, video: expected a video file .*gone\.mp4.*; paths are relative to the manifest\.$/,
  ],
  'an answer outside the choices': [
    () => config(samples((l) => (l['answer'] = 'six'))),
    /broken\.jsonl, line 3, answer: expected one of the choices \[.*\], but got "six"\.$/,
  ],
  'a sample without an answer': [
    () => config(samples((l) => delete l['answer'])),
    /broken\.jsonl, line 3, answer: expected this field, but got nothing; it is required\.$/,
  ],
  'a clip that ends before it begins': [
    () => config(samples((l) => Object.assign(l, { start: 2, end: 1 }))),
    /broken\.jsonl, line 3, end: expected a time after start \(2 s\), but got 1\.$/,
  ],
  'an answer that leaves no room': [
    () => config(samples((l) => Object.assign(l, { answer: 'red '.repeat(300), choices: undefined }))),
    /line 3, sample "[^"]+": answer: 256 tokens .* leave no room for a prompt .*; shorten the answer, /,
  ],
  'an output that is a file': [
    () => config({ output: world.train }),
    /output: expected a folder that can be written, but got the file .*manifest\.jsonl; choose another than /,
  ],
  'a metric of a task that is not there': [
    () => config({ train: { metric: 'accuracy:dance' } }),
    /train\.metric: no validation sample has the task "dance"; the tasks are attribute, count, direction, existence\.$/,
  ],
}

for (const [name, [broken, sentence]] of Object.entries(setups))
  test(name, async () => {
    const { code, err } = await inProcess(register, 'validate', await broken())
    assert.is(code, 1, err)
    const said = err.split('\n').filter((line) => /^(mtransllama|problem): /.test(line))
    assert.is(said.length, 1, err)
    assert.match(said[0]!, sentence)
    assert.not.ok(existsSync(at('broken')), 'nothing is written')
  })

test('the same from the command line: a problem found by validate, and one by what it opens', async () => {
  const path = config({ train: { metric: 'accuracy:dance' } })
  const [found, gone] = await Promise.all([cli('validate', path), cli('validate', at('gone.yaml'))])
  assert.equal([found.code, gone.code], [1, 1])
  assert.match(found.err, /^problem: train\.metric: [^\n]+\n$/)
  assert.match(found.out, /\n1 problems: training would not start\n$/)
  assert.match(gone.err, /^mtransllama: [^\n]+gone\.yaml: no such file; mtransllama init writes one\.\n$/)
})

test.run()
