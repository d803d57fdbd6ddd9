// docs/gpu-api.md is what the code says, and says it of every operator.
import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { native } from '../../lib/native.js'
import * as names from '../../lib/public/tensor.js'
import { exported, gpuApiPage } from '../../scripts/docs/gpu-api.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const page = readFileSync(`${root}docs/gpu-api.md`, 'utf8')
const files = readdirSync(`${root}lib/ops`).map((file) => `lib/ops/${file}`)

test('the page is what the docstrings and headers say (npm run docs:gpu-api)', () => {
  assert.fixture(page, gpuApiPage())
})

test('every operator is public, and on the page with its documentation', () => {
  const inner = ['columns'] // for operators alone; the type Columns is public
  let operators = 0
  for (const file of files) {
    for (const { kind, name, text } of exported(file)) {
      if (kind !== 'function' && kind !== 'class') continue
      if (inner.some((own) => file === `lib/ops/${own}.ts`)) continue
      operators++
      assert.ok(name in names, `${file}: ${name} is not in mtransllama/tensor`)
      assert.match(page, new RegExp(`^#### \`${name}\`$`, 'm'))
      assert.match(text, kind === 'class' ? /^\S+ / : /\n```\n\n\S+/, `${file}: ${name} has no documentation`)
    }
  }
  assert.ok(operators >= 45, `${operators}`)
})

test('every native function is on the page with its contract', () => {
  const missing = Object.keys(native().ops).filter(
    (name) => !new RegExp(`^(.*, )?${name}(, .*)?\\n  \\S`, 'm').test(page),
  )
  assert.equal(missing, [])
})

test.run()
