/** `POST /v1/chat/completions`: a question waits for its turn, and is answered whole or word by word. */
import type { FastifyReply } from 'fastify'
import type { Answered } from '../../session/model.js'
import { Completion, parseAsked, type Asked } from '../chat.js'
import { EventStream } from '../event-stream.js'
import { errorBody, limited } from '../refusal.js'
import { hold, placeOf, type Service } from '../service.js'

export function chat(service: Service): void {
  service.app.post(
    '/v1/chat/completions',
    {
      // A place is taken before the body is read, so that bodies of those who cannot wait cost no memory; and the
      // body must come in time, so that nobody keeps a place by sending slowly.
      onRequest: async (_, reply) => hold(reply, service.questions.enter()),
      preParsing: async (_request, _reply, payload) => limited(payload, service.patience),
    },
    async (request, reply) => {
      const asked = parseAsked(request.body)
      const adapter = service.adapter(asked.model)
      const signal = service.signal(reply)
      const place = placeOf(reply)
      request.raw.socket.setTimeout(0) // silence is no fault of a client that waits for its turn
      try {
        const source = await service.sources.open(asked.video, signal)
        try {
          await place.turn(signal)
          const { start, end } = asked.video
          const { graphs } = service.options
          const answer = service.model.ask(
            { video: source.path, start, end, prompt: asked.prompt, dialogue: asked.dialogue },
            {
              ...asked.choice,
              adapter,
              features: service.featuresOf(asked.frames, adapter),
              maxTokens: asked.maxTokens,
              graphs,
              signal,
            },
          )
          return await (asked.stream ? streamed(service, reply, asked, answer) : whole(asked, answer))
        } catch (error) {
          throw source.hidden(error)
        } finally {
          await source.release()
        }
      } finally {
        place.leave()
        request.raw.socket.setTimeout(2 * service.patience)
      }
    },
  )
}

async function whole(asked: Asked, answer: AsyncGenerator<string, Answered>): Promise<object> {
  let text = ''
  let next = await answer.next()
  for (; !next.done; next = await answer.next()) text += next.value
  return new Completion(asked.model).whole(text, next.value)
}

/** Sends an answer as it comes. What fails before the first word is an error response like any other. */
async function streamed(
  service: Service,
  reply: FastifyReply,
  asked: Asked,
  answer: AsyncGenerator<string, Answered>,
): Promise<void> {
  const completion = new Completion(asked.model)
  let next = await answer.next()
  const sink = new EventStream(reply, service.patience)
  try {
    await sink.send(completion.piece({ role: 'assistant', content: '' }))
    for (; !next.done; next = await answer.next()) await sink.send(completion.piece({ content: next.value }))
    await sink.send(completion.piece({}, next.value.finish))
    if (asked.usage) await sink.send(completion.usage(next.value))
    await sink.send('[DONE]')
  } catch (error) {
    const { status, message, details } = service.described(error)
    await sink.send(errorBody(status, message, details)).catch(() => {})
  } finally {
    await answer.return(undefined as never)
    sink.end()
  }
}
