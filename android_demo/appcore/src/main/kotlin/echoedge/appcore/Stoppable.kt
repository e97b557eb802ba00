package echoedge.appcore

import echoedge.engine.CancelledException
import echoedge.engine.Program
import echoedge.engine.Programs
import echoedge.engine.Tensor

/** Runs programs as [programs] does until somebody wants it to end: before each run that is asked. */
class Stoppable(private val programs: Programs, private val cancelled: () -> Boolean) : Programs by programs {
    override fun run(program: Program, method: String, inputs: Map<String, Tensor>): Map<String, Tensor> {
        if (cancelled()) throw CancelledException()
        return programs.run(program, method, inputs)
    }
}
