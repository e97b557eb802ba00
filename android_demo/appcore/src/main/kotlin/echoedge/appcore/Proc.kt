package echoedge.appcore

/** What Linux tells of a process, and what follows from the number of its cores. */
object Proc {
    private val PEAK = Regex("^VmHWM:\\s+(\\d{1,15}) kB$", RegexOption.MULTILINE)

    /** The most memory that was resident at once, of the text of /proc/self/status; null: it does not say. */
    fun peakRssBytes(status: String): Long? = PEAK.find(status)?.groupValues?.get(1)?.toLong()?.times(1024)

    /**
     * Threads of a runtime where nobody says: half of the cores, as ExecuTorch itself chooses; the small ones are of little help.
     */
    fun threads(cores: Int): Int = maxOf(1, cores / 2)
}
