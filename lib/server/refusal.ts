/** Requests that are refused, and the form in which errors are sent: OpenAI's. */
import { PassThrough, type Readable } from 'node:stream'

/** A request that is refused: its HTTP status, and one sentence for the client. */
export class Refusal extends Error {
  override name = 'Refusal'
  constructor(
    readonly status: number,
    message: string,
    readonly details: { param?: string; code?: string; retryAfter?: number } = {},
  ) {
    super(message)
  }
}

const TYPES: Record<number, string> = { 401: 'authentication_error', 403: 'permission_error', 429: 'rate_limit_error' }

/** The body of an error response. */
export const errorBody = (status: number, message: string, { param, code }: Refusal['details'] = {}): object => ({
  error: {
    message,
    type: TYPES[status] ?? (status < 500 ? 'invalid_request_error' : 'server_error'),
    param: param ?? null,
    code: code ?? null,
  },
})

const late = (ms: number): Refusal =>
  new Refusal(408, `The request was not sent on for ${ms / 1000} s and is given up.`, { code: 'too_slow' })

/** The bytes of a stream. @throws Refusal 408 where none come for `ms` milliseconds */
export async function* paced(stream: Readable, ms: number): AsyncGenerator<Buffer> {
  const timer = setTimeout(() => stream.destroy(late(ms)), ms)
  try {
    for await (const chunk of stream) {
      timer.refresh()
      yield chunk as Buffer
      timer.refresh() // what its reader takes is not the sender's time
    }
  } finally {
    clearTimeout(timer)
  }
}

/** The same bytes, which must all come within `ms` milliseconds: what reads them gets that error else. */
export function limited(stream: Readable, ms: number): Readable {
  const through = stream.pipe(new PassThrough())
  const timer = setTimeout(() => through.destroy(late(ms)), ms).unref()
  stream.once('error', (error) => through.destroy(error))
  // It may fail when nobody reads it any more.
  return through.on('error', () => {}).once('close', () => clearTimeout(timer))
}
