// The native interface is declared twice, in C++ and in TypeScript: both must agree, and nothing else is exported.
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { native } from '../../lib/native.js'

const source = readFileSync(new URL('../../lib/native.ts', import.meta.url), 'utf8')

const operators = new URL('../../lib/ops/', import.meta.url)
/** The text that each file of lib/ops adds to the interface Ops. */
const added = readdirSync(operators)
  .map((file) => readFileSync(new URL(file, operators), 'utf8'))
  .flatMap((text) => [...text.matchAll(/^ {2}interface Ops \{\n([^]*?)\n {2}\}/gm)].map((m) => m[1]!))

/** `name(type, type?)` of every method in these texts. */
function declared(): string[] {
  return [...added.join('\n').matchAll(/^ {4}(\w+)\(([^)]*)\): void$/gm)].map(([, method, parameters]) => {
    const types = parameters!
      .split(',')
      .filter((p) => p.trim()) // the formatter leaves a comma behind the last one
      .map((p) => {
        const [type, ...rest] = p
          .split(':')[1]!
          .split('|')
          .map((s) => s.trim())
        assert.ok(
          rest.length === 0 || (rest.length === 1 && rest[0] === 'null'),
          `${method}: a type of the border, or one and null: ${p}`,
        )
        return type + (rest.length ? '?' : '')
      })
    return `${method}(${types.join(', ')})`
  })
}

test('lib/ops declares the operators of the addon once each, with their parameters', () => {
  const inTypeScript = declared()
  assert.ok(inTypeScript.length >= 40)
  assert.equal(inTypeScript.sort(), [...native().signatures].sort())
})

test('every line of the interface was understood', () => {
  const body = added.join('\n')
  assert.is(declared().length, body.match(/\)/g)!.length)
  assert.equal(body.replace(/^ {4}\w+\([^)]*\): void$/gm, '').trim(), '')
})

test('the addon has the functions that lib/native.ts declares, and no others', () => {
  const body = /export interface Native \{\n([^]*?)\n\}/.exec(source)![1]!
  assert.equal(Object.keys(native()).sort(), [...body.matchAll(/^ {2}(\w+)/gm)].map((m) => m[1]!).sort())
  assert.equal(
    Object.keys(native().ops),
    native().signatures.map((s) => s.slice(0, s.indexOf('('))),
  )
})

const file = process.env.MT_ADDON ?? fileURLToPath(new URL('../../build/Release/mtransllama.node', import.meta.url))
const tools =
  process.platform === 'linux' &&
  existsSync(file) &&
  ['/usr/bin/nm', '/usr/local/bin/nm', '/bin/nm'].find((f) => existsSync(f))
;(tools ? test : test.skip)('the binary exports the two entry points of Node-API alone', () => {
  const lines = execFileSync(tools as string, ['-D', '--defined-only', file], { encoding: 'utf8' })
    .trim()
    .split('\n')
  assert.equal(lines.map((l) => l.split(' ').at(-1)!.split('@')[0]).sort(), [
    'napi_register_module_v1',
    'node_api_module_get_api_version_v1',
  ])
})

test.run()
