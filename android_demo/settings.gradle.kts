// The demo as Android Studio opens it. It was not built with Gradle here: `make android-apk` compiles the same sources without it.
pluginManagement {
    repositories {
        google()
        mavenCentral()
        gradlePluginPortal()
    }
}

dependencyResolutionManagement {
    repositoriesMode.set(RepositoriesMode.FAIL_ON_PROJECT_REPOS)
    repositories {
        google()
        mavenCentral()
    }
}

rootProject.name = "echoedge-demo"
include(":engine", ":appcore", ":app")
