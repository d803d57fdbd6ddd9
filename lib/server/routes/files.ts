/** `/v1/files`: clips that clients upload, in OpenAI's form. */
import { FRAMING, hold, placeOf, type Service } from '../service.js'
import { paced, Refusal } from '../refusal.js'
import type { Upload } from '../uploads.js'

export function files(service: Service): void {
  const { app, uploads } = service
  const object = ({ id, name, bytes, created }: Upload): object => ({
    id,
    object: 'file',
    bytes,
    created_at: created,
    filename: name,
    purpose: 'user_data',
    status: 'processed',
  })
  const tooLarge = uploads.limits.bytes + FRAMING
  app.post(
    '/v1/files',
    {
      bodyLimit: tooLarge,
      onRequest: async ({ headers }, reply) => {
        if (Number(headers['content-length']) > tooLarge)
          throw new Refusal(413, `The clip is larger than ${uploads.limits.bytes} bytes, the most that is accepted.`, {
            code: 'file_too_large',
          })
        if (!/^multipart\/form-data/i.test(headers['content-type'] ?? ''))
          throw new Refusal(415, 'Send the clip as multipart/form-data, in a field named file.', {
            code: 'unsupported_body',
          })
        hold(reply, service.uploading.enter())
      },
    },
    async (request, reply) => {
      await placeOf(reply).turn(service.signal(reply))
      let saved: Upload | undefined
      try {
        for await (const part of request.parts()) {
          if (part.type !== 'file') continue
          if (part.fieldname !== 'file') throw new Refusal(400, 'The clip is expected in a field named file.')
          saved = await uploads.add(paced(part.file, service.patience), part.filename.slice(0, 200))
        }
      } catch (error) {
        if (saved) await uploads.delete(saved.id)
        const { statusCode, code, message } = error as Error & { statusCode?: number; code?: string }
        if (code === 'FST_FILES_LIMIT') throw new Refusal(400, 'Send one clip in a request.')
        if (error instanceof Refusal || statusCode !== undefined || code !== undefined) throw error
        throw new Refusal(400, `The multipart body cannot be read: ${message}.`, { code: 'malformed' })
      }
      if (!saved) throw new Refusal(400, 'The form has no file; send the clip in a field named file.')
      return object(saved)
    },
  )
  app.get('/v1/files', async () => ({ object: 'list', data: uploads.all.map(object), has_more: false }))
  app.get<{ Params: { id: string } }>('/v1/files/:id', async ({ params }) => object(uploads.get(params.id)))
  app.delete<{ Params: { id: string } }>('/v1/files/:id', async ({ params: { id } }) => {
    await uploads.delete(id)
    return { id, object: 'file', deleted: true }
  })
}
