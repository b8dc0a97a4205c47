"""Why a job does not run, or goes slowly, or has results that need a look: worked out from the database when asked."""
