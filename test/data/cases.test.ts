/**
 * Videos from ../shared/cases/video, each the smallest of its kind that was once read wrongly. Skipped where absent.
 */
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { existsSync, readFileSync } from 'node:fs'
import { readFrames } from '../../lib/data/frames.js'
import { InputError } from '../../lib/errors.js'
import { barNumber } from './videos.js'

const test = suite('cases of videos')
const folder = new URL('../../../shared/cases/video/', import.meta.url).pathname

interface Case {
  kind: string
  frames?: Record<string, number[] | string>
  error?: string
  either?: Case[]
}

if (!existsSync(folder)) {
  console.log(`SKIPPED: ${folder} is absent, so its videos are not read`)
  test.skip('every case of EXPECTED.json', () => {})
} else {
  const expected = JSON.parse(readFileSync(`${folder}EXPECTED.json`, 'utf8')) as Record<string, Case>
  for (const [name, one] of Object.entries(expected)) {
    if (name === 'about') continue
    test(`${name}: ${one.kind}`, async () => {
      const wanted = [one, ...(one.either ?? [])]
      const frames = wanted.find((w) => w.frames)!.frames!
      for (const [count, numbers] of Object.entries(frames)) {
        const read = await readFrames(
          { video: folder + name },
          { frames: Number(count), sampling: { kind: 'uniform' } },
        ).catch((error: unknown) => error)
        if (read instanceof Error) {
          assert.instance(read, InputError)
          assert.ok(
            wanted.some((w) => w.error),
            read.message,
          )
          continue
        }
        const got = (read as Awaited<ReturnType<typeof readFrames>>)
          .map((f) => barNumber(f))
          .map((n) => (n > 127 ? 255 - n : n)) // a second part shows its negative
        if (typeof numbers !== 'string') assert.equal(got, numbers)
        else assert.ok(got.every((n, i) => n === (2 * i + got[0]!) % 50) && got[0]! < 2, `${numbers}: ${got}`)
      }
    })
  }
}

test.run()
