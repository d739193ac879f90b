import { parentPort, workerData } from 'node:worker_threads'
import { trainLoop } from './loop.mjs'

const onStep = (step) => parentPort?.postMessage({ step })
parentPort?.postMessage({ result: await trainLoop({ ...workerData, onStep }) })
