// Every operator of the model, forward, in float64.
export * from './elementwise.js'
export * from './dense.js'
export * from './attention.js'
export * from './masks.js'
export * from './loss.js'
export { concat, mean } from './array.js'
