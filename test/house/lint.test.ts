// The repository is formatted and linted, and no line of lib or native is wider than 120 columns.
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** A message is one string on one line, so that it can be searched for; no formatter breaks it. */
const message = /^\s*(\w+: |[?:=+] )?['"`]/

/** Other files with wide lines, each with its reason. */
const wide: Record<string, string> = {
  'lib/adapter/save.ts': 'the text of a README, which has its own line width; a regular expression',
}

test('npm run lint', () => {
  const { status, stdout, stderr } = spawnSync('npm', ['run', 'lint'], { cwd: root, encoding: 'utf8' })
  assert.is(status, 0, stdout + stderr)
})

test('lines of lib and native have at most 120 columns', () => {
  const { stdout } = spawnSync('git', ['ls-files', '-co', '--exclude-standard', 'lib', 'native'], {
    cwd: root,
    encoding: 'utf8',
  })
  const sources = stdout.split('\n').filter((file) => /\.(ts|mts|mjs|cc|cu|h)$/.test(file))
  assert.ok(sources.length > 200)
  const found = sources
    .filter((file) => !(file in wide))
    .flatMap((file) =>
      readFileSync(`${root}/${file}`, 'utf8')
        .split('\n')
        .flatMap((line, i) => (line.length > 120 && !message.test(line) ? [`${file}:${i + 1}`] : [])),
    )
  assert.equal(found, [])
})

test.run()
