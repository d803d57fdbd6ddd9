/**
 * The program of a decoding process: clips in, pictures or hashes out; see decoders.ts. It ends with the process that
 * started it.
 */

import { Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { InputError } from '../errors.js'
import { contentHash, recordedHash } from './cache.js'
import { openClip, readClip } from './clip.js'
import type { Reply, Request } from './decoders.js'
import { loadFfmpeg } from './ffmpeg.js'

const out = new Socket({ fd: 3 })
out.on('error', stop)
process.on('SIGINT', () => {}) // the parent process decides what an interruption means

/** Ends the process at once, even during a native call. */
function stop(): void {
  process.kill(process.pid, 'SIGKILL')
}

/** Sends the reply and then the pictures' bytes; resolves once they are written. */
async function send(reply: object, pictures: Uint8Array[] = []): Promise<void> {
  const rss = process.memoryUsage.rss()
  out.write(`${JSON.stringify({ ...reply, rss } as Reply)}\n`)
  for (const data of pictures) await new Promise<void>((resolve) => out.write(data, () => resolve()))
}

async function answer(request: Request): Promise<void> {
  try {
    if ('hash' in request) {
      const { hash: video, recording } = request
      const hash = recording ? recordedHash(video, recording.folder, recording.how) : contentHash(video)
      return await send({ hash: await hash })
    }
    const { clip, options, open } = request
    if (open) {
      await openClip(clip, options)
      return await send({ pictures: [], order: [] })
    }
    const frames = await readClip(clip, options)
    const distinct = [...new Set(frames)]
    const pictures = distinct.map(({ width, height, time }) => ({ width, height, time }))
    await send(
      { pictures, order: frames.map((frame) => distinct.indexOf(frame)) },
      distinct.map((frame) => frame.data),
    )
  } catch (error) {
    await send({ error: (error as Error).message, input: error instanceof InputError })
  }
}

const lines = createInterface({ input: process.stdin })
lines.on('close', stop)
lines.on('line', (line) => {
  void answer(JSON.parse(line) as Request)
})
// Loaded before the first clip's time runs. Pictures of the model's size need no FFmpeg; what needs it says that it is
// missing.
await loadFfmpeg().catch(() => undefined)
await send({ ready: true })
