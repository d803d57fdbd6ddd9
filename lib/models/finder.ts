/** Finds the weights of a model by their Hugging Face names. */
import { invalid } from '../errors.js'
import type { Linear, Norm, Pack } from '../nn/layers.js'
import { PACKS } from '../checkpoint/config.js'
import type { Tensor } from '../tensor/tensor.js'

/** The tensors of a checkpoint, by canonical name. */
export type Weights = ReadonlyMap<string, Tensor>

/** Sees named intermediate results: `embeddings`, `layer.0.spatial`, `vision.hidden.1`, … For tests and for study. */
export type Observe = (name: string, value: Tensor) => void

/** Finds tensors below a prefix. */
export class Finder {
  constructor(
    readonly weights: Weights,
    readonly prefix = '',
  ) {}
  at(name: string): Finder {
    return new Finder(this.weights, `${this.prefix}${name}.`)
  }
  has(name: string): boolean {
    return this.weights.has(this.prefix + name)
  }
  get(name: string): Tensor {
    const t = this.weights.get(this.prefix + name)
    if (!t) throw invalid('weights', `a tensor named ${this.prefix}${name}`, 'a checkpoint without it')
    return t
  }
  linear(name: string): Linear {
    return { weight: this.get(`${name}.weight`), bias: this.has(`${name}.bias`) ? this.get(`${name}.bias`) : undefined }
  }
  /** The layers of one of {@link PACKS}. */
  pack(name: string): Pack {
    return {
      parts: PACKS[name]!.map((part) => this.linear(part)),
      whole: this.has(`${name}.weight`) ? this.linear(name) : undefined,
    }
  }
  norm(name: string, eps: number): Norm {
    return { weight: this.get(`${name}.weight`), bias: this.get(`${name}.bias`), eps }
  }
}
