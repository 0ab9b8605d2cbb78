"""Few answers of people, asked for where they prove most: candidates, plan, answers, certificate."""
