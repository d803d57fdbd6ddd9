/** What a promise or a call is refused with, for tests of errors that users see. */
import * as assert from 'uvu/assert'
import { InputError } from '../../lib/errors.js'

/** The message of the InputError that a promise, or a call, ends with: one line. Anything else fails the test. */
export async function refusal(act: Promise<unknown> | (() => unknown)): Promise<string> {
  const promise = typeof act === 'function' ? (async () => act())() : act
  const error: unknown = await promise.then(
    () => assert.unreachable('nothing was thrown'),
    (thrown: unknown) => thrown,
  )
  assert.instance(error, InputError, String((error as Error | undefined)?.stack))
  const { message } = error as InputError
  assert.not.match(message, /\n/)
  return message
}
