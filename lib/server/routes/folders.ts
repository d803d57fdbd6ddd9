/** `/api`: what the page offers and follows: clips, their frames, and training runs. */
import { readFrames } from '../../data/frames.js'
import { pictureUrl } from '../../data/picture-url.js'
import { invalid } from '../../errors.js'
import { framesOf } from '../../session/model.js'
import { parseVideo, type VideoSource } from '../chat.js'
import { EventStream } from '../event-stream.js'
import { Refusal } from '../refusal.js'
import { hold, placeOf, type Service } from '../service.js'

export function folders(service: Service): void {
  const { app } = service
  const { clips, runs } = service.given
  app.get('/api/about', async () => ({
    clips: clips ? await clips.list() : null,
    runs: runs !== undefined,
    upload: service.uploads.limits.bytes,
  }))
  app.post<{ Body: { video?: unknown; model?: unknown; frames?: unknown } | null }>(
    '/api/frames',
    { onRequest: async (_, reply) => hold(reply, service.looking.enter()) },
    async ({ body }, reply) => {
      const video = parseVideo(body?.video, 'video')
      const adapter = service.adapter(String(body?.model ?? service.options.name))
      const signal = service.signal(reply)
      await placeOf(reply).turn(signal)
      return { frames: await pictures(service, video, framesOf(adapter ?? undefined), signal) }
    },
  )
  app.get('/api/runs', async () => ({ runs: runs ? await runs.list() : [] }))
  app.get<{ Params: { name: string }; Querystring: { from?: string } }>(
    '/api/runs/:name',
    { onRequest: async (_, reply) => hold(reply, service.following.enter()) },
    async ({ params, query }, reply) => {
      const from = Number(query.from ?? 0)
      if (!Number.isSafeInteger(from) || from < 0) throw invalid('from', 'a number of bytes, from 0 on', query.from)
      if (!runs) throw new Refusal(404, 'This server was started without --runs.', { code: 'not_found' })
      const signal = service.signal(reply)
      await placeOf(reply).turn(signal)
      const follow = runs.follow(params.name, from, signal)
      let next = await follow.next()
      if (next.done) return
      const sink = new EventStream(reply, service.patience)
      const beat = setInterval(() => sink.comment(), Math.min(10_000, service.patience / 2))
      try {
        for (; !next.done; next = await follow.next()) await sink.send(next.value)
      } finally {
        clearInterval(beat)
        sink.end()
      }
    },
  )
}

/** The frames of a clip that the model would read, in the size in which it reads them. */
async function pictures(
  service: Service,
  video: VideoSource,
  frames: number,
  signal: AbortSignal,
): Promise<{ time: number; image: string }[]> {
  const source = await service.sources.open(video, signal)
  try {
    const { start, end } = video
    const shown = await readFrames(
      { video: source.path, start, end },
      {
        frames,
        sampling: { kind: 'uniform' },
        resize: service.model.checkpoint.preprocessor,
        timeout: service.options.timeout,
        signal,
      },
    )
    return await Promise.all(shown.map(async (frame) => ({ time: frame.time, image: await pictureUrl(frame) })))
  } catch (error) {
    throw source.hidden(error)
  } finally {
    await source.release()
  }
}
