// bench/gpu/all.sh where there is no GPU: every stage says why it cannot run, the script ends well and its result is
// valid.
// On the emulated addon the stages run, at tiny sizes. No time is checked.
import { spawn, spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { delimiter, dirname, join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { z } from 'zod'
import { Random } from '../../lib/ops/random.js'
import { scope } from '../../lib/tensor/scope.js'
import { streams } from '../../bench/gpu/inputs.js'
import { emulated } from '../cuda/emulated.js'
import { temporaryFolder } from '../support/tiny.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const json = (path: string): any => JSON.parse(readFileSync(path, 'utf8'))
const schema = z.fromJSONSchema(json(join(root, 'bench', 'gpu', 'schema.json')))
const has = (tool: string): boolean => !spawnSync(tool, ['--version']).error

const script = join(root, 'bench', 'gpu', 'all.sh')

/** The result in a folder that holds nothing else. */
function resultOf(out: string): { path: string; result: any } {
  const files = readdirSync(out).filter((name) => name.startsWith('gpu-'))
  assert.is(files.length, 1, `${files}`)
  assert.match(files[0]!, /^gpu-a-test-\d{4}-\d\d-\d\d\.json$/)
  const path = join(out, files[0]!)
  const result = json(path)
  assert.ok(schema.parse(result))
  return { path, result }
}

/** Runs the script; its result and the lines of its table. */
function all(
  env: Record<string, string>,
  ...options: string[]
): { path: string; stages: Record<string, any>; lines: string[]; stderr: string } {
  const out = temporaryFolder('gpu')
  const { status, stdout, stderr } = spawnSync(
    'bash',
    [script, '--quick', '--name', 'A "test"\\', '--out', out, ...options],
    { encoding: 'utf8', env: { ...process.env, ...env } },
  )
  assert.is(status, 0, stderr)
  const { path, result } = resultOf(out)
  assert.is(stdout.trim().split('\n').at(-1), path)
  return { path, stages: result.stages, lines: stdout.trim().split('\n').slice(0, -1), stderr }
}

/** A folder for the PATH with a program of that name. */
function program(name: string, text: string): string {
  const folder = temporaryFolder('bin')
  writeFileSync(join(folder, name), text)
  chmodSync(join(folder, name), 0o755)
  return folder
}
const before = (folder: string): Record<string, string> => ({ PATH: `${folder}${delimiter}${process.env.PATH}` })
const alive = (pid: number): boolean => {
  try {
    return process.kill(pid, 0) && !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false
  }
}
async function until(what: string, holds: () => boolean): Promise<void> {
  for (let i = 0; i < 600; i++) {
    if (holds()) return
    await pause(100)
  }
  assert.unreachable(`waited a minute for ${what}`)
}

const unix = process.platform !== 'win32' && has('bash') && has('timeout') ? test : test.skip

const stagesOfDevice = ['build', 'probe', 'tests', 'sanitizer', 'ceilings', 'node', 'kernels']

unix('without a GPU every stage is unavailable and says why; without Node as well', () => {
  const addon = process.env.MT_ADDON ?? join(root, 'build', 'Release', 'mtransllama.node')
  if (existsSync(addon)) {
    const { stages, lines } = all({ MT_ADDON: addon, MT_PEERS_DEVICE: 'cuda' })
    const { devices } = stages.build.result.devices.cuda
    assert.ok(stages.machine.result.node.startsWith('v'))
    if (!devices.length)
      for (const name of stagesOfDevice) {
        assert.is(stages[name].status, 'unavailable', name)
        assert.ok(stages[name].reason.length > 10, name)
      }
    assert.ok(lines.length <= 60)
  }
  const { stages } = all({ MT_NODE: '/nowhere/node' })
  for (const name of [...stagesOfDevice, 'table'])
    assert.equal([stages[name].status, stages[name].reason], ['unavailable', '/nowhere/node does not run'])
})

unix('a wrong option, stage or number is one sentence', () => {
  for (const [args, said] of [
    [['--stage', 'x'], '--stage is no option'],
    [['--stages', 'build,nothing'], '--stages: nothing is no stage'],
    [['--seconds', 'ten'], '--seconds: expected a whole number, but got "ten"'],
  ] as const) {
    const { status, stderr } = spawnSync('bash', [script, ...args], { encoding: 'utf8' })
    assert.is(status, 2)
    assert.ok(stderr.includes(said) && stderr.trim().split('\n').length === 1, stderr)
  }
})

const emulator = emulated ? unix : test.skip
/** What the emulated addon gives where nothing else is said. */
const onEmulator = { MT_ADDON: emulated ?? '', MT_PEERS_DEVICE: 'cuda' }

emulator('on the emulator the stages run: kernels, whole models, tests, the table', () => {
  const { stages, lines } = all(onEmulator)
  for (const name of ['build', 'probe', 'tests', 'ceilings', 'node', 'kernels', 'table'])
    assert.is(stages[name].status, 'ok', `${name}: ${stages[name].reason}`)
  assert.ok(stages.kernels.result.emulated)
  const wanted = json(join(root, 'bench', 'gpu', 'shapes.json')).quick.flatMap((item: any) =>
    (item.passes ?? ['forward', 'backward']).map((pass: string) => `${item.id} ${pass}`),
  )
  const own = stages.kernels.result.rows.filter((r: any) => r.gemm === 'own')
  assert.equal(
    own.map((r: any) => r.id),
    wanted,
  )
  for (const row of own) {
    assert.is(row.status, 'ok', `${row.id}: ${row.reason}`)
    for (const { at, rms } of row.digest) assert.ok(rms > 0 && at.every(Number.isFinite), row.id)
  }
  // Products, training step and decoding by cuBLASLt as well, or why not.
  for (const stage of ['ceilings', 'node', 'kernels']) {
    const rows = stages[stage].result.rows.filter((r: any) => r.gemm === 'cublaslt')
    assert.ok(rows.length > 0, stage)
    for (const row of rows)
      assert.ok(
        row.status === 'ok' || (row.status === 'unavailable' && row.reason.includes('cublaslt')),
        `${row.id}: ${row.reason}`,
      )
  }
  for (const id of ['model step 2/3/6, graph', 'model step 2/3/6, launched one by one', 'model decode 1'])
    assert.is(stages.node.result.rows.find((r: any) => r.id === id)?.status, 'ok', id)
  assert.ok(lines[0]!.includes('EMULATED') && lines.length <= 60)
})

emulator('a kernel that takes the device with it costs one row: the others run in a new process', () => {
  // Each process faults at its launch of that number: the first in the middle, the next ones after as much work again.
  const { stages } = all({ ...onEmulator, MT_EMULATOR: 'sticky=700' }, '--stages', 'kernels')
  const { rows } = stages.kernels.result
  const failed = rows.filter((r: any) => r.status === 'failed')
  assert.ok(failed.length >= 1 && failed.length <= rows.length / 4, `${failed.length} of ${rows.length} rows failed`)
  for (const row of failed) assert.match(row.reason, /was lost: /)
  const own = rows.filter((r: any) => r.gemm === 'own' && r.status !== 'failed')
  assert.ok(own.length > 0 && own.every((r: any) => r.status === 'ok'))
  assert.is(stages.kernels.status, 'failed')
  assert.ok(stages.kernels.reason.startsWith(`${failed[0].id}: `), stages.kernels.reason)
})

/** Rows of a program whose jobs are given as code, by their ids. */
function jobs(
  code: Record<string, string>,
  options: { limit?: number; quick?: boolean } = {},
): { rows: any[]; status: number | null; stdout: string } {
  const folder = temporaryFolder('jobs')
  const file = join(folder, 'jobs.mts')
  const url = (path: string): string => JSON.stringify(new URL(path, import.meta.url).href)
  writeFileSync(
    file,
    `
    import { measure, finish } from ${url('../../bench/gpu/workers.ts')}
    const work: Record<string, () => object | Promise<object>> = { ${Object.entries(code)
      .map(([id, c]) => `${JSON.stringify(id)}: async () => { ${c}; return { pid: process.pid } }`)
      .join(', ')} }
    const rows = await measure({ url: import.meta.url, limit: ${options.limit ?? 90}, jobs: Object.keys(work).map((id) => ({ id, gemm: id.endsWith('lt') ? 'cublaslt' as const : 'own' as const })),
      open: () => ({ device: 'cpu' as const, facts: { gemm: process.env.MT_GEMM }, run: ({ id }) => work[id]!() }) })
    finish(rows, 'done')`,
  )
  const to = join(folder, 'rows.json')
  const { status, stdout } = spawnSync(process.execPath, ['--import', 'tsx', file, '--to', to], {
    cwd: root,
    encoding: 'utf8',
  })
  return { rows: json(to).rows, status, stdout }
}

unix('a job that throws, ends or stops its process, or never ends costs its own row', () => {
  const { rows, status, stdout } = jobs(
    {
      a: '',
      throws: 'throw new Error("no")',
      b: '',
      aborts: 'process.abort()',
      ends: 'process.exit(9)',
      c: '',
      hangs: 'await new Promise(() => setInterval(() => {}, 1000))',
      d: '',
      lacks: 'throw new Error("needs a card")',
      'e lt': '',
    },
    { limit: 3 },
  )
  assert.equal(
    rows.map((r) => [r.id, r.status, r.reason]),
    [
      ['a', 'ok', undefined],
      ['throws', 'failed', 'no'],
      ['b', 'ok', undefined],
      ['aborts', 'failed', 'its process was killed by SIGABRT'],
      ['ends', 'failed', 'its process ended with 9'],
      ['c', 'ok', undefined],
      ['hangs', 'failed', 'took over 3 s'],
      ['d', 'ok', undefined],
      ['lacks', 'unavailable', 'needs a card'],
      ['e lt, cublaslt', 'ok', undefined],
    ],
  )
  const of = (id: string): number => rows.find((r) => r.id === id).pid
  assert.is(of('a'), of('b'), 'an error that leaves the device whole needs no new process')
  assert.is(new Set([of('b'), of('c'), of('d'), of('e lt, cublaslt')]).size, 4)
  assert.is(status, 1)
  assert.is(stdout.trim(), 'throws: no (4 of 10 rows failed)')
})

emulator(
  '--stages runs these alone, --from takes over what an earlier run found, --logs keeps what was printed',
  () => {
    const card = before(program('nvidia-smi', '#!/bin/sh\necho "A device, 1"\n'))
    const first = all({ ...onEmulator, ...card }, '--stages', 'build,probe')
    assert.is(first.stages.probe.status, 'ok')
    assert.equal(
      [first.stages.kernels.status, first.stages.kernels.reason, first.stages.kernels.result],
      ['unavailable', 'was not asked for', null],
    )
    const logs = join(temporaryFolder('logs'), 'log.txt')
    const second = all(
      { ...onEmulator, ...card, MT_COMMIT: `${'0123456789'.repeat(4)}-dirty` },
      '--stages',
      'ceilings',
      '--from',
      first.path,
      '--logs',
      logs,
    )
    assert.equal(second.stages.probe, first.stages.probe)
    assert.equal(second.stages.build, first.stages.build)
    assert.is(second.stages.ceilings.status, 'ok')
    assert.equal(second.stages.ceilings.result.clocks[0].is, 'A device, 1')
    assert.equal(
      [second.stages.machine.result.commit, second.stages.machine.result.changed],
      ['0123456789'.repeat(4), true],
    )
    const text = readFileSync(logs, 'utf8')
    assert.ok(text.includes('==== ceilings') && text.includes(second.stages.ceilings.reason), text)
    // Times of one device are not those of another.
    const other = all(
      { ...onEmulator, ...before(program('nvidia-smi', '#!/bin/sh\necho "Another device, 1"\n')) },
      '--stages',
      'probe',
      '--from',
      second.path,
    )
    assert.match(other.stages.ceilings.reason, /^was measured on another device: /)
    assert.equal(other.stages.build, first.stages.build)
    const unreadable = all(onEmulator, '--stages', 'probe', '--from', '/nowhere.json')
    assert.ok(unreadable.stderr.includes('/nowhere.json could not be read'))
    assert.is(unreadable.stages.probe.status, 'ok')
  },
)

;(has('python3') ? emulator : test.skip)("cuBLASLt of Python's packages is on the path of libraries", () => {
  const folder = temporaryFolder('site')
  const library = join(folder, 'nvidia', 'cublas', 'lib', 'libcublasLt.so.13')
  mkdirSync(dirname(library), { recursive: true })
  writeFileSync(library, '')
  assert.is(all({ ...onEmulator, PYTHONPATH: folder }, '--stages', 'build').stages.machine.result.cublas, library)
})

emulator('where the probe fails, nothing that needs the device runs', () => {
  const { stages } = all({ ...onEmulator, MT_EMULATOR: 'fail=launch:1' })
  assert.is(stages.probe.status, 'failed')
  for (const name of ['tests', 'sanitizer', 'ceilings', 'node', 'kernels'])
    assert.match(stages[name].reason, /^the probe of the tensor cores failed: /, name)
})

emulator('killed in the middle of a stage: its rows so far are in the result, and nothing goes on', async () => {
  const out = temporaryFolder('gpu')
  const child = spawn('bash', [script, '--quick', '--name', 'A test', '--out', out, '--stages', 'kernels'], {
    stdio: 'ignore',
    env: { ...process.env, ...onEmulator, MT_MERGE_SECONDS: '0.2' },
  })
  const ended = new Promise((resolve) => child.on('close', resolve))
  const rows = (): any[] => {
    try {
      return resultOf(out).result.stages.kernels.result?.rows ?? []
    } catch {
      return []
    }
  }
  await until('rows of a stage that runs', () => rows().length > 0)
  const of = (pid: number, what: string): string => {
    try {
      return readFileSync(`/proc/${pid}/${what}`, 'utf8')
    } catch {
      return '' // it has ended, or is another user's
    }
  }
  const workers = readdirSync('/proc')
    .map(Number)
    .filter(
      (pid) =>
        pid > 0 &&
        of(pid, 'cmdline').includes('bench/gpu/kernels.ts') &&
        of(pid, 'environ').includes('MT_MERGE_SECONDS=0.2'),
    )
  assert.ok(workers.length > 0)
  child.kill('SIGTERM')
  await ended
  const { stages } = resultOf(out).result
  assert.ok(stages.kernels.result.rows.length > 0)
  assert.equal(
    [stages.kernels.status, stages.kernels.reason, stages.peers.reason],
    ['failed', 'was stopped before it ended', 'was not asked for'],
  )
  await until('the end of every worker', () => !workers.some(alive))
})

unix('what a sanitizer started ends with it, and errors of racecheck are told from warnings', async () => {
  const marks = temporaryFolder('marks')
  // memcheck and synccheck are clean, racecheck has warnings, initcheck hangs with a process of its own.
  const tools = program(
    'compute-sanitizer',
    `#!/bin/sh
    [ "$1" = --version ] && exit 0
    case "$2" in
      initcheck) sleep 1000 & echo $! >${marks}/pid; wait ;;
      racecheck) printf '40 runs of 20 cases are done\n========= Warning: Race reported between Read access and Write access\n========= RACECHECK SUMMARY: 2 hazards displayed (0 errors, 2 warnings)\n'; exit 99 ;;
      *) printf '40 runs of 20 cases are done\n========= ERROR SUMMARY: 0 errors\n' ;;
    esac\n`,
  )
  const to = join(marks, 'rows.json')
  const { stdout, status } = spawnSync(process.execPath, ['bench/gpu/sanitizer.mjs', '--seconds', '7', '--to', to], {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, ...before(tools) },
  })
  assert.is(status, 0, stdout)
  const of = Object.fromEntries(json(to).rows.map((r: any) => [r.id, r]))
  assert.equal(
    [of.memcheck.status, of.synccheck.status, of.racecheck.status, of.racecheck.errors, of.racecheck.warnings],
    ['ok', 'ok', 'ok', 0, 2],
  )
  assert.equal(
    [of.initcheck.status, of.initcheck.reason],
    ['unavailable', 'the time limit of the stage, after 0 runs without a report'],
  )
  assert.match(stdout, /racecheck ok with 2 warnings/)
  const pid = Number(readFileSync(join(marks, 'pid'), 'utf8'))
  await until('the end of what initcheck started', () => !alive(pid))
})

test('shapes.json: unique ids, tiny forms of every kind, and streams of inputs that the peers know', () => {
  const { items, quick } = json(join(root, 'bench', 'gpu', 'shapes.json'))
  for (const list of [items, quick]) assert.is(new Set(list.map((i: any) => i.id)).size, list.length)
  assert.equal([...new Set(quick.map((i: any) => i.kind))].sort(), [...new Set(items.map((i: any) => i.kind))].sort())
  const [, listed] = /^STREAMS = (\[.*\])/m.exec(readFileSync(join(root, 'bench', 'peers', 'common.py'), 'utf8'))!
  assert.equal(JSON.parse(listed!), [...streams])
})

test('the stage of tests names files that exist', () => {
  const named = [
    ...readFileSync(join(root, 'bench', 'gpu', 'tests.mjs'), 'utf8').matchAll(/file\('(test\/\w+)', '([\w-]+)'/g),
  ].map(([, folder, name]) => `${folder}/${name}.test.ts`)
  assert.ok(named.length >= 5)
  for (const file of named) assert.ok(existsSync(join(root, file)), file)
})

;(has('python3') ? test : test.skip)('the peers draw the numbers that the addon draws', () => {
  const libraries = ['python', ...(spawnSync('python3', ['-c', 'import numpy']).status === 0 ? ['numpy'] : [])]
  for (const [seed, stream, count] of [
    [7, 3, 9],
    [3698885304, 0, 1030],
  ] as const) {
    const draw = (kind: 'normal' | 'uniform'): number[] =>
      scope(() => {
        const r = new Random(seed)
        for (let i = 0; i < stream; i++) r.uniform([1])
        return [...((kind === 'normal' ? r.normal([count]) : r.uniform([count], -3, 5)).dataBlocking() as Float32Array)]
      })
    for (const library of libraries) {
      const { status, stdout, stderr } = spawnSync(
        'python3',
        [join(root, 'bench', 'peers', 'common.py'), `${seed}`, `${stream}`, `${count}`, library],
        { encoding: 'utf8' },
      )
      assert.is(status, 0, stderr)
      const given = JSON.parse(stdout)
      assert.equal(given.uniform, draw('uniform'), library)
      // log, sin and cos of another library may round differently.
      draw('normal').forEach((x, i) =>
        assert.ok(
          Math.abs(x - given.normal[i]) <= 2 ** -22 * Math.max(1, Math.abs(x)),
          `${library}: number ${i} is ${given.normal[i]}, not ${x}`,
        ),
      )
    }
  }
})

;(has('python3') ? test : test.skip)(
  'peers: what comes late has a row that says so, and a difference that is none is no time',
  () => {
    const code = `
import json, sys
sys.path.insert(0, "bench/peers")
import attention, layers
from common import Bench, difference
class Torch: pass
items = json.load(open("bench/gpu/shapes.json"))["quick"]
bench = Bench(Torch(), "cpu", None, True, -1)
layers.run(bench, items)
attention.run(bench, items)
times = lambda x: {"median": x, "p10": x, "p90": x, "samples": 3}
bench.end = float("inf")
bench.row("peer", "item", "backward", "eager", lambda: {"us": difference(times(2), times(2))})
bench.row("peer", "item", "backward", "graph", lambda: {"us": difference(times(5), times(2))})
print(json.dumps(bench.rows))`
    const { status, stdout, stderr } = spawnSync('python3', ['-c', code], { cwd: root, encoding: 'utf8' })
    assert.is(status, 0, stderr)
    const rows: any[] = JSON.parse(stdout)
    const [none, some] = rows.splice(-2)
    for (const row of rows) assert.equal([row.status, row.reason], ['unavailable', 'no time was left'], row.id)
    const named = new Set(rows.map((r) => r.item))
    for (const { id } of json(join(root, 'bench', 'gpu', 'shapes.json')).quick) assert.ok(named.has(id), id)
    assert.equal([none.status, 'us' in none], ['unavailable', false])
    assert.match(none.reason, /both passes took no longer than forward alone/)
    assert.equal([some.status, some.us.median], ['ok', 3])
  },
)

test.run()
