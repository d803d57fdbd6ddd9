/** `GET /healthz` and `GET /v1/models`: what is served. */
import { framesOf } from '../../session/model.js'
import type { Service } from '../service.js'

export function about(service: Service): void {
  const object = (id: string): object => ({
    id,
    object: 'model',
    created: service.started,
    owned_by: 'mtransllama',
    frames: framesOf(service.adapters.get(id)),
  })
  const names = [service.options.name, ...service.adapters.keys()]
  service.app.get('/healthz', async () => ({
    status: 'ok',
    running: service.questions.running,
    waiting: service.questions.waiting,
  }))
  service.app.get('/v1/models', async () => ({ object: 'list', data: names.map(object) }))
  service.app.get<{ Params: { id: string } }>('/v1/models/:id', async ({ params }) => {
    service.adapter(params.id)
    return object(params.id)
  })
}
